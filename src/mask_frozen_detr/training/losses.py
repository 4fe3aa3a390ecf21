"""Mask losses on points, and the IoU that mask scoring learns (paper, appendix A).

Letters: M matched masks, h × w cells of a predicted mask, S side of the ground-truth masks, N points of a mask,
K classes. Points are x, y in [0, 1] of the predicted frame. Boxes and frames are x0, y0, x1, y1 in one common unit.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_frozen_detr.training.config import LossConfig
from mask_frozen_detr.training.points import cell_centres, read_logits, read_truth


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 − (2 Σ p t + 1) / (Σ p + Σ t + 1) for each of (M, N) point sets: (M,)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)


@torch.no_grad()
def mask_iou(logits: Tensor, masks: Tensor, boxes: Tensor, frames: Tensor) -> Tensor:
    """IoU of the thresholded masks (M, h, w) over `frames` with the whole truth, also its part outside: (M,)."""
    points = _all_points(logits)
    truth = read_truth(masks, boxes, frames, points)
    predicted = (logits.flatten(1) > 0).to(truth.dtype)
    frame_area, box_area = _area(frames), _area(boxes)
    intersection = (predicted * truth).mean(1) * frame_area
    union = predicted.mean(1) * frame_area + masks.to(truth.dtype).mean((1, 2)) * box_area - intersection
    return (intersection / union.clamp(min=1e-9)).clamp(0, 1)


def mask_losses(
    logits: Tensor,
    iou: Tensor | None,
    frames: Tensor,
    masks: Tensor,
    boxes: Tensor,
    labels: Tensor,
    config: LossConfig,
    points: Tensor | None = None,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Weighted losses, each summed over the M masks: `bce`, `dice` and, with mask scoring, `iou`.

    logits (M, h, w) over frames (M, 4); iou (M, K) predicted, or None; ground truth masks (M, S, S) over boxes (M, 4);
    labels (M,); points (M, N, 2) that the losses are taken on, or None for every cell.
    weights: (M,), how much each mask counts; None: all alike. The IoU with a soft mask is that with its likelier half.
    Also `matched_iou`, the sum of true mask IoUs, for the log (no gradient).
    """
    logits = logits.float()
    if points is None:
        points, at_points = _all_points(logits), logits.flatten(1)
    else:
        at_points = read_logits(logits, points)
    truth = read_truth(masks, boxes, frames, points)
    bce = F.binary_cross_entropy_with_logits(at_points, truth, reduction="none").mean(1)
    weights = torch.ones_like(bce) if weights is None else weights
    true_iou = mask_iou(logits, masks > 0.5, boxes, frames)
    losses = {
        "bce": config.bce_weight * (weights * bce).sum(),
        "dice": config.dice_weight * (weights * dice_loss(at_points, truth)).sum(),
    }
    if iou is not None:
        predicted = iou.float().gather(1, labels[:, None])[:, 0]
        losses["iou"] = config.iou_weight * (weights * F.mse_loss(predicted, true_iou, reduction="none")).sum()
    losses["matched_iou"] = true_iou.sum()
    return losses


def _all_points(logits: Tensor) -> Tensor:
    M, h, w = logits.shape
    return cell_centres(h, w, logits.device).expand(M, -1, -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
