"""Ground truth meets queries: Hungarian matching with the detector's own costs (transformers' matchers).

Letters: B images, T ground-truth objects of an image, M matched pairs over all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher
from transformers.loss.loss_for_object_detection import HungarianMatcher

from mask_frozen_detr.detectors.base import Detections, MatchingCosts, ScoreRule
from mask_frozen_detr.results.given_boxes import choose_queries


@dataclass
class Targets:
    """Ground truth of one image, or of M matched objects, in the frame of the unpadded input, on the host.

    boxes: (T, 4) cx, cy, w, h in [0, 1]. labels: (T,) class indices of the detector.
    masks: (T, S, S) uint8, 0 or 1, each over its own box; where pseudo-masks are among them float16, their chances.
    has_mask: (T,) bool; an object whose mask nobody drew has zeros: the detector shall find it all the same, and the
    mask network learns nothing from it.
    weights: (T,) float32, how much an object's mask counts: 1 for a true one.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    has_mask: Tensor
    weights: Tensor


@dataclass
class Matches:
    """M matched pairs, sorted by image: image_index, query_index, target_index, each (M,) and on the host.

    boxes: (M, 4) cx, cy, w, h in [0, 1], the frames of their masks: the query's own box, or that of an object which the
    detector missed.
    """

    image_index: Tensor
    query_index: Tensor
    target_index: Tensor
    boxes: Tensor

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
            torch.cat([target.weights for target in targets])[chosen],
        )


class Matcher:
    """One query for every ground-truth object (as far as there are queries).

    Pairs whose boxes overlap by less than `min_iou` are taken apart: the detector missed that object, and a box beside
    it has no mask to learn. With `missed` the object still teaches, over its true box, with the query that fits it
    best. Objects without a mask teach nothing. All of it runs on the host: logits and boxes come over in one copy, the
    only one of a training step that a GPU is waited for.
    """

    def __init__(self, costs: MatchingCosts, rule: ScoreRule, min_iou: float = 0.0, missed: bool = False):
        self.min_iou, self.missed, self.rule = min_iou, missed, rule
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
        queries, objects = [], []
        for (chosen, matched), found, target in zip(pairs, boxes, targets, strict=True):
            keep = target.has_mask[matched]
            if self.min_iou:
                keep &= _overlaps(found[chosen], target.boxes[matched]) >= self.min_iou
            queries.append(chosen[keep])
            objects.append(matched[keep])
        matches = Matches(_image_of(queries), torch.cat(queries), torch.cat(objects), torch.zeros(0, 4))
        matches.boxes = boxes[matches.image_index, matches.query_index]
        if not self.missed:
            return matches
        return _sorted(matches, self._missed(replace(detections, logits=logits, boxes=boxes), targets, objects))

    def _missed(self, detections: Detections, targets: list[Targets], matched: list[Tensor]) -> Matches:
        """The objects with a mask that are not matched, each with the query that fits its true box best."""
        lost = []
        for target, objects in zip(targets, matched, strict=True):
            left = target.has_mask.clone()
            left[objects] = False
            lost.append(left.nonzero()[:, 0])
        images = _image_of(lost)
        boxes = torch.cat([target.boxes[objects] for target, objects in zip(targets, lost, strict=True)])
        labels = torch.cat([target.labels[objects] for target, objects in zip(targets, lost, strict=True)])
        return Matches(images, choose_queries(detections, self.rule, images, boxes, labels), torch.cat(lost), boxes)


def _image_of(parts: list[Tensor]) -> Tensor:
    """Which image each entry of the images' parts, one beside the other, belongs to."""
    return torch.cat([torch.full_like(part, b) for b, part in enumerate(parts)])


def _sorted(some: Matches, others: Matches) -> Matches:
    """Both, by image; within one, `some` first."""
    order = torch.cat([some.image_index, others.image_index]).argsort(stable=True)
    parts = ("image_index", "query_index", "target_index", "boxes")
    return Matches(*(torch.cat([getattr(some, part), getattr(others, part)])[order] for part in parts))


def _overlaps(some: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes (M, 4), each with that of the others (M, 4) in its place, as cx, cy, w, h: (M,)."""
    return box_iou(box_convert(some, "cxcywh", "xyxy"), box_convert(others, "cxcywh", "xyxy")).diagonal()
