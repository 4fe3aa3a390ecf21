"""The losses that the authors train with, on transformers' Deformable DETR criterion; Table 11 fine-tunes with them.

Hungarian matching, focal classification, L1 and generalised IoU, on every decoder layer and on the proposals. The
authors' further branches (one-to-many queries, denoising) are not here: they shape training from scratch.
"""

import torch
from torch import Tensor
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from mask_frozen_detr.detectors.official.config import OfficialConfig
from mask_frozen_detr.detectors.official.output import OfficialOutput

BOX_LOSS, GIOU_LOSS = 5.0, 2.0  # both families


def detection_loss(
    outputs: OfficialOutput, targets: list[dict[str, Tensor]], config: OfficialConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and its parts by name: `loss_ce`, `loss_bbox`, `loss_giou`, with `_0` … for the decoder's
    inner layers and `_proposal` for the proposals.

    targets: for each image `class_labels` (M,) and `boxes` (M, 4), cx, cy, w, h of the unpadded image; M may be 0.
    """
    matcher = DeformableDetrHungarianMatcher(class_cost=2.0, bbox_cost=BOX_LOSS, giou_cost=GIOU_LOSS)
    criterion = DeformableDetrImageLoss(matcher, config.num_classes, focal_alpha=0.25, losses=["labels", "boxes"])
    layers = [
        {"logits": logits.float(), "pred_boxes": boxes.float()}
        for logits, boxes in zip(outputs.layer_logits, outputs.layer_boxes, strict=True)
    ]
    parts = criterion({**layers[-1], "auxiliary_outputs": layers[:-1]}, targets)

    if not config.score_best_class:  # proposals only tell objects from background: all objects are class 0
        targets = [{**target, "class_labels": torch.zeros_like(target["class_labels"])} for target in targets]
    proposals = {"logits": outputs.proposal_logits.float(), "pred_boxes": outputs.proposal_boxes.float()}
    parts |= {f"{name}_proposal": part for name, part in criterion(proposals, targets).items()}

    weights = {"loss_ce": config.class_loss, "loss_bbox": BOX_LOSS, "loss_giou": GIOU_LOSS}
    total = sum(weights["_".join(name.split("_")[:2])] * part for name, part in parts.items())
    return total, parts
