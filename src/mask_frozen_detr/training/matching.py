"""Ground truth meets queries: Hungarian matching with the detector's own costs (transformers' matchers).

Letters: B images, T ground-truth objects of an image, M matched pairs over all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher
from transformers.loss.loss_for_object_detection import HungarianMatcher

from mask_frozen_detr.detectors.base import Detections, MatchingCosts, ScoreRule


@dataclass
class Targets:
    """Ground truth of one image, or of M matched objects, in the frame of the unpadded input, on the host.

    boxes: (T, 4) cx, cy, w, h in [0, 1]. labels: (T,) class indices of the detector.
    masks: (T, S, S) uint8, each over its own box. has_mask: (T,) bool; an object whose mask nobody drew has zeros:
    the detector shall find it all the same, and the mask network learns nothing from it.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor


@dataclass
class Matches:
    """M matched pairs, sorted by image: image_index, query_index, target_index, each (M,) and on the host."""

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor

    def __len__(self) -> int:
        return len(self.image_index)

    def truth(self, targets: Sequence[Targets]) -> Targets:
        """What each pair's query shall find, in the pairs' order; targets: of every image of the batch."""
        objects = torch.tensor([0, *(len(target.labels) for target in targets)])
        chosen = objects.cumsum(0)[self.image_index] + self.target_index  # in the row of all images' objects
        return Targets(
            torch.cat([target.boxes for target in targets])[chosen],
            torch.cat([target.labels for target in targets])[chosen],
            torch.cat([target.masks for target in targets])[chosen],
            torch.cat([target.has_mask for target in targets])[chosen],
        )


class Matcher:
    """One query for every ground-truth object (as far as there are queries).

    Pairs whose boxes overlap by less than `min_iou` are dropped: the detector missed that object, and a box beside it
    has no mask to learn; so are those whose object has none. All of it runs on the host: logits and boxes come over in
    one copy, the only one of a training step that a GPU is waited for.
    """

    def __init__(self, costs: MatchingCosts, rule: ScoreRule, min_iou: float = 0.0):
        self.min_iou = min_iou
        kind = DeformableDetrHungarianMatcher if rule.kind == "sigmoid" else HungarianMatcher
        self.matcher = kind(costs.class_cost, costs.bbox_cost, costs.giou_cost)

    @torch.no_grad()
    def __call__(self, detections: Detections, targets: list[Targets]) -> Matches:
        both = torch.cat([detections.logits.float(), detections.boxes.float()], -1).cpu()
        logits, boxes = both[..., :-4], both[..., -4:]
        # Detectors that predict distances to the four sides find a box inside out now and then; costs need w, h ≥ 0.
        boxes = torch.cat([boxes[..., :2], boxes[..., 2:].clamp(min=0)], -1)
        outputs = {"logits": logits, "pred_boxes": boxes}
        pairs = self.matcher(outputs, [{"class_labels": target.labels, "boxes": target.boxes} for target in targets])
        if self.min_iou:
            pairs = [
                _overlapping(queries, objects, boxes, target.boxes, self.min_iou)
                for (queries, objects), boxes, target in zip(pairs, boxes, targets, strict=True)
            ]
        pairs = [
            (queries[target.has_mask[objects]], objects[target.has_mask[objects]])
            for (queries, objects), target in zip(pairs, targets, strict=True)
        ]
        return Matches(
            torch.cat([torch.full_like(queries, b) for b, (queries, _) in enumerate(pairs)]),
            torch.cat([queries for queries, _ in pairs]),
            torch.cat([objects for _, objects in pairs]),
        )


def _overlapping(
    queries: Tensor, objects: Tensor, boxes: Tensor, truth: Tensor, min_iou: float
) -> tuple[Tensor, Tensor]:
    """The pairs of one image whose boxes, (Q, 4) and (T, 4) as cx, cy, w, h, have an IoU of at least `min_iou`."""
    ours, theirs = box_convert(boxes[queries], "cxcywh", "xyxy"), box_convert(truth[objects], "cxcywh", "xyxy")
    keep = box_iou(ours, theirs).diagonal() >= min_iou
    return queries[keep], objects[keep]
