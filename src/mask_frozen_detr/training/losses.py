"""Mask losses on sampled points, and the IoU that mask scoring learns (paper, appendix A).

Letters: M matched masks, r mask side, S side of the ground-truth crops, N points of a mask.
Points are x, y in [0, 1] of the predicted frame. Boxes and frames are x0, y0, x1, y1 in one common unit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_frozen_detr.machine.devices import send

Generators = Sequence[tuple[torch.Generator, int]]  # of each image in turn, and how many masks it has


@dataclass(frozen=True)
class LossConfig:
    """Weights are the field's usual ones; k and β are PointRend's."""

    bce_weight: float = 5.0
    dice_weight: float = 5.0
    iou_weight: float = 1.0
    sampled_points: bool = True  # off: every cell of the mask (Table 12, second row)
    point_fraction: float = 0.25  # N as a share of the mask's r · r points
    oversample: float = 3.0  # k
    importance: float = 0.75  # β

    def __post_init__(self) -> None:
        if not 0 < self.point_fraction <= 1:
            raise ValueError(f"point_fraction: found {self.point_fraction}, expected a number in (0, 1]")
        if self.oversample < 1:
            raise ValueError(f"oversample: found {self.oversample}, expected at least 1")
        if not 0 <= self.importance <= 1:
            raise ValueError(f"importance: found {self.importance}, expected a number in [0, 1]")


def read_logits(logits: Tensor, points: Tensor) -> Tensor:
    """Bilinear reading of (M, r, r) logits at (M, N, 2) points; beyond the outer cells' centres the edge repeats,
    as when masks are pasted. (M, N)."""
    grid = 2 * points[:, None] - 1
    return F.grid_sample(logits[:, None], grid, padding_mode="border", align_corners=False)[:, 0, 0]


def read_truth(crops: Tensor, boxes: Tensor, frames: Tensor, points: Tensor) -> Tensor:
    """Ground truth (M, S, S) over `boxes` (M, 4), read at points (M, N, 2) of `frames` (M, 4); 0 outside. (M, N)."""
    places = frames[:, None, :2] + points * (frames[:, 2:] - frames[:, :2])[:, None]
    inside = (places - boxes[:, None, :2]) / (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)[:, None]
    grid = 2 * inside[:, None] - 1
    return F.grid_sample(crops[:, None].to(points.dtype), grid, padding_mode="zeros", align_corners=False)[:, 0, 0]


def grid_points(size: int, device: torch.device) -> Tensor:
    """(1, size², 2): the centres of all cells."""
    centres = (torch.arange(size, device=device) + 0.5) / size
    return torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).view(1, -1, 2)


@torch.no_grad()
def sample_points(logits: Tensor, config: LossConfig, generator: torch.Generator | Generators | None = None) -> Tensor:
    """(M, N, 2) points: of kN random ones the βN most uncertain, and (1 − β)N more at random.

    generator: a CPU generator, so that a run repeats on any device; or one for each image, so that an image's points
    do not depend on what else is in the batch.
    """
    M, r = logits.shape[0], logits.shape[1]
    count = max(1, round(r * r * config.point_fraction))
    important = round(config.importance * count)
    each = [(generator, M)] if generator is None or isinstance(generator, torch.Generator) else generator
    shape = (round(config.oversample * count) + count - important, 2)
    drawn = torch.cat([torch.rand(masks, *shape, generator=one) for one, masks in each])
    drawn = send(drawn, logits.device)
    candidates, free = drawn.split([round(config.oversample * count), count - important], dim=1)
    uncertainty = -read_logits(logits, candidates).abs()
    chosen = uncertainty.topk(important, dim=1).indices
    return torch.cat([candidates.gather(1, chosen[..., None].expand(-1, -1, 2)), free], 1)


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """1 − (2 Σ p t + 1) / (Σ p + Σ t + 1) for each of (M, N) point sets: (M,)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * truth).sum(1) + 1) / (p.sum(1) + truth.sum(1) + 1)


@torch.no_grad()
def mask_iou(logits: Tensor, crops: Tensor, boxes: Tensor, frames: Tensor) -> Tensor:
    """IoU of the thresholded masks (M, r, r) over `frames` with the whole truth, also its part outside: (M,)."""
    points = grid_points(logits.shape[1], logits.device).expand(len(logits), -1, -1)
    truth = read_truth(crops, boxes, frames, points)
    mask = (logits.flatten(1) > 0).to(truth.dtype)
    frame_area, box_area = _area(frames), _area(boxes)
    intersection = (mask * truth).mean(1) * frame_area
    union = mask.mean(1) * frame_area + crops.to(truth.dtype).mean((1, 2)) * box_area - intersection
    return (intersection / union.clamp(min=1e-9)).clamp(0, 1)


def mask_losses(
    logits: Tensor,
    iou: Tensor | None,
    frames: Tensor,
    crops: Tensor,
    boxes: Tensor,
    labels: Tensor,
    config: LossConfig,
    generator: torch.Generator | Generators | None = None,
) -> dict[str, Tensor]:
    """Weighted losses, each summed over the M masks: `bce`, `dice` and, with mask scoring, `iou`.

    logits (M, r, r) over frames (M, 4); iou (M, K) predicted, or None; crops (M, S, S) over boxes (M, 4);
    labels (M,). Also `matched_iou`, the sum of true mask IoUs, for the log (no gradient).
    """
    logits = logits.float()
    if config.sampled_points:
        points = sample_points(logits, config, generator)
        at_points = read_logits(logits, points)
    else:
        points = grid_points(logits.shape[1], logits.device).expand(len(logits), -1, -1)
        at_points = logits.flatten(1)
    truth = read_truth(crops, boxes, frames, points)
    bce = F.binary_cross_entropy_with_logits(at_points, truth, reduction="none").mean(1)
    true_iou = mask_iou(logits, crops, boxes, frames)
    losses = {
        "bce": config.bce_weight * bce.sum(),
        "dice": config.dice_weight * dice_loss(at_points, truth).sum(),
    }
    if iou is not None:
        predicted = iou.float().gather(1, labels[:, None])[:, 0]
        losses["iou"] = config.iou_weight * F.mse_loss(predicted, true_iou, reduction="sum")
    losses["matched_iou"] = true_iou.sum()
    return losses


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
