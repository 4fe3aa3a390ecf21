"""Ground truth meets queries: Hungarian matching with the detector's own costs (transformers' matchers).

Letters: B images, T ground-truth objects of an image, M matched pairs over all images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher
from transformers.loss.loss_for_object_detection import HungarianMatcher

from mask_frozen_detr.detectors.base import Detections, MatchingCosts, ScoreRule


@dataclass
class Targets:
    """Ground truth of one image, in the frame of its unpadded input.

    boxes: (T, 4) cx, cy, w, h in [0, 1]. labels: (T,) class indices of the detector.
    crops: (T, S, S) uint8 masks, each over its own box.
    """

    boxes: Tensor
    labels: Tensor
    crops: Tensor

    def to(self, device: torch.device) -> "Targets":
        return Targets(*(value.to(device, non_blocking=True) for value in (self.boxes, self.labels, self.crops)))


@dataclass
class Matches:
    """M matched pairs, sorted by image: image_index, query_index, target_index, each (M,)."""

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor

    def __len__(self) -> int:
        return len(self.image_index)


class Matcher:
    """One query for every ground-truth object (as far as there are queries).

    Pairs whose boxes overlap by less than `min_iou` are dropped: the detector missed that object, and a box beside it
    has no mask to learn.
    """

    def __init__(self, costs: MatchingCosts, rule: ScoreRule, min_iou: float = 0.0):
        self.min_iou = min_iou
        kind = DeformableDetrHungarianMatcher if rule.kind == "sigmoid" else HungarianMatcher
        self.matcher = kind(costs.class_cost, costs.bbox_cost, costs.giou_cost)

    @torch.no_grad()
    def __call__(self, detections: Detections, targets: list[Targets]) -> Matches:
        boxes = detections.boxes.float()
        # Detectors that predict distances to the four sides find a box inside out now and then; costs need w, h ≥ 0.
        boxes = torch.cat([boxes[..., :2], boxes[..., 2:].clamp(min=0)], -1)
        outputs = {"logits": detections.logits.float(), "pred_boxes": boxes}
        pairs = self.matcher(outputs, [{"class_labels": target.labels, "boxes": target.boxes} for target in targets])
        if self.min_iou:
            pairs = [
                _overlapping(queries, objects, boxes, target.boxes, self.min_iou)
                for (queries, objects), boxes, target in zip(pairs, boxes, targets, strict=True)
            ]
        device = detections.boxes.device
        image_index = torch.cat([torch.full_like(queries, b) for b, (queries, _) in enumerate(pairs)])
        return Matches(
            image_index.to(device),
            torch.cat([queries for queries, _ in pairs]).to(device),
            torch.cat([objects for _, objects in pairs]).to(device),
        )


def _overlapping(
    queries: Tensor, objects: Tensor, boxes: Tensor, truth: Tensor, min_iou: float
) -> tuple[Tensor, Tensor]:
    """The pairs of one image whose boxes, (Q, 4) and (T, 4) as cx, cy, w, h, have an IoU of at least `min_iou`."""
    ours = box_convert(boxes[queries.to(boxes.device)].float(), "cxcywh", "xyxy")
    theirs = box_convert(truth[objects.to(truth.device)], "cxcywh", "xyxy")
    keep = (box_iou(ours, theirs).diagonal() >= min_iou).to(queries.device)
    return queries[keep], objects[keep]
