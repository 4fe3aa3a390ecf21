"""The module that is exported: a model with its post-processing, from prepared pixels to tensors of known shapes.

Detector, mask network and scoring are those that run everywhere; what stands here is which queries get masks, told
as data instead of as lists. Letters: B images, N detections of an image, M masks, r side of a mask, K classes.
"""

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.results.inference import best_pairs

OUTPUTS = ("boxes", "scores", "class_scores", "labels", "queries", "masks")


class MaskGraph(nn.Module):
    """detections: N; an image has fewer where the detector does not have so many pairs of query and class."""

    def __init__(self, model: MaskFrozenDetr, detections: int):
        super().__init__()
        self.detector, self.network, self.detections = model.detector, model.network, detections
        self.classes = model.class_indices()  # those that were chosen for the run's training

    def forward(self, images: Tensor, score_threshold: Tensor) -> tuple[Tensor, ...]:
        """images (B, 3, H, W), nothing of them padding; score_threshold (): masks are made for class scores above it.

        Returns `OUTPUTS`, best class score first: boxes (B, N, 4) as x0, y0, x1, y1 in [0, 1] of the image; scores
        (B, N), of equation 13, or of equation 2 with the mean taken over the mask's own cells; class_scores, labels,
        queries (B, N); masks (B, N, r, r), probabilities over the box within the image, 0 where none was made.
        """
        detections = self.detector(images, None)
        rule = self.detector.info.score_rule
        class_scores, queries, labels = best_pairs(detections.logits, rule, self.detections, self.classes)
        image_index, place, row, made = masks_wanted(queries, class_scores, score_threshold)
        output = self.network(detections, None, image_index, queries[image_index, place])
        masks = output.logits.float().sigmoid()[row] * made[:, :, None, None]
        if output.iou is not None:
            factors = output.iou.float()[row].gather(2, labels[:, :, None])[:, :, 0] * made
        else:
            inside = (masks > MASK_THRESHOLD).to(masks)
            factors = (masks * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)
        boxes = box_convert(detections.boxes.float(), "cxcywh", "xyxy")
        boxes = boxes.gather(1, queries[:, :, None].expand(-1, -1, 4))
        return boxes, class_scores * factors, class_scores, labels, queries, masks


def masks_wanted(queries: Tensor, scores: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which masks to make: one a query with a score above the threshold, however many classes it appears under.

    An image's best detection always gets one, so that no tensor of a graph is ever empty.
    queries, scores: (B, N), best first. Returns the image and the place in it of each of the M masks, (M,) each; for
    each detection which of them is its own, (B, N); and whether it has one, (B, N).
    """
    place = torch.arange(queries.shape[1], device=queries.device)
    first = (queries[:, :, None] == queries[:, None]).int().argmax(2)  # (B, N): where the query appears first
    above = scores > threshold
    wanted = (first == place) & (above | (place == 0))
    number = (wanted.flatten().cumsum(0) - 1).view(wanted.shape)
    image_index, places = wanted.nonzero().unbind(1)
    return image_index, places, number.gather(1, first), above
