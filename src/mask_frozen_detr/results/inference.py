"""From pre-processed images to instances: the best detections, one mask per distinct query, pasted as crops.

Letters: B images, Q queries, K classes, N detections of an image, M distinct queries over all images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from mask_frozen_detr.detectors.base import FrozenDetector, ScoreRule
from mask_frozen_detr.network import MaskNetwork
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.results.assemble import assemble
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.mirror import mean_with_mirror


@dataclass
class TopDetections:
    """The best (query, class) pairs of one image, best first: scores (N,), query_index (N,), labels (N,).

    On the host: how many there are decides what comes next.
    """

    scores: Tensor
    query_index: Tensor
    labels: Tensor


def best_pairs(
    logits: Tensor, rule: ScoreRule, count: int, classes: Sequence[int] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, queries and labels (B, N) of the `count` best (query, class) pairs of (B, Q, K) logits, best first.

    The detector's own post-processing. With sigmoid classes a query may appear under several of them; with softmax,
    or a prompt, it has one. N is less than `count` where there are not so many pairs.
    classes: those of other classes score -1; None for all.
    """
    scores = rule.scores(logits.float())
    if classes is not None:
        wanted = torch.zeros(scores.shape[2], dtype=torch.bool, device=scores.device)
        wanted[list(classes)] = True
    if rule.one_label:
        best, labels = scores.max(-1)  # (B, Q)
        if classes is not None:
            best = best.masked_fill(~wanted[labels], -1.0)
        values, queries = best.topk(min(count, best.shape[1]), dim=1)
        return values, queries, labels.gather(1, queries)
    flat = (scores if classes is None else scores.masked_fill(~wanted, -1.0)).flatten(1)
    values, pairs = flat.topk(min(count, flat.shape[1]), dim=1)
    return values, pairs // scores.shape[2], pairs % scores.shape[2]


def top_detections(
    logits: Tensor,
    rule: ScoreRule,
    count: int,
    score_threshold: float = 0.0,
    classes: Sequence[int] | None = None,
) -> list[TopDetections]:
    """`best_pairs` above a threshold, image by image. Raises FloatingPointError where a score is not a number."""
    values, queries, labels = (part.cpu() for part in best_pairs(logits, rule, count, classes))
    if values.isnan().any():  # which count as the highest: none can be lost among the rest
        raise FloatingPointError("the detector's class scores are not numbers (NaN)")
    keep = values > score_threshold
    return [TopDetections(values[b][keep[b]], queries[b][keep[b]], labels[b][keep[b]]) for b in range(len(logits))]


@torch.no_grad()
def segment(
    detector: FrozenDetector,
    network: MaskNetwork,
    pixel_values: Tensor,
    pixel_mask: Tensor,
    sizes: Sequence[tuple[int, int]],
    max_detections: int = 100,
    score_threshold: float = 0.0,
    keep_probabilities: bool = False,
    class_names: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    mirror: bool = False,
) -> list[Instances]:
    """Instances of a batch.

    pixel_values (B, 3, H, W), pixel_mask (B, H, W), best on the host; sizes: (height, width) of the B original
    images, in whose pixels boxes and masks are given. Detections whose class score is not above `score_threshold` are
    dropped before masks are made; the final score, at most the class score, is left to the caller to threshold.
    class_names: of a run whose training data names more of them than the detector does. classes: indices of those that
    are looked for, None for all. mirror: masks are the mean with a second look, see `results.mirror`.
    Raises FloatingPointError where scores, boxes or masks are not numbers.
    """
    detections = detector(pixel_values, pixel_mask)
    tops = top_detections(detections.logits, detector.info.score_rule, max_detections, score_threshold, classes)
    distinct = [top.query_index.unique(return_inverse=True) for top in tops]
    image_index = torch.cat([torch.full_like(queries, b) for b, (queries, _) in enumerate(distinct)])
    query_index = torch.cat([queries for queries, _ in distinct])
    if not len(query_index):
        return [Instances.empty(height, width) for height, width in sizes]
    output = network(detections, pixel_mask, image_index, query_index)
    if mirror:
        chosen = (image_index, query_index)
        output = mean_with_mirror(detector, network, pixel_values, pixel_mask, detections, *chosen, output)
    masks = output.logits.float().sigmoid().cpu().numpy()
    original = torch.tensor([(width, height) for height, width in sizes])
    scale = (original / extents(pixel_mask).cpu()).repeat(1, 2)[image_index]  # (M, 4): padded input to original image
    frames = (output.frames.float().cpu() * scale).numpy()
    iou = None if output.iou is None else output.iou.float().cpu()
    boxes = detections.boxes.float().cpu()
    starts = np.cumsum([0] + [len(queries) for queries, _ in distinct])
    results = []
    for b, (top, (_, inverse)) in enumerate(zip(tops, distinct, strict=True)):
        part = slice(starts[b], starts[b + 1])
        results.append(
            make_instances(
                boxes[b],
                top,
                inverse,
                masks[part],
                frames[part],
                None if iou is None else iou[part],
                sizes[b],
                class_names or detector.info.class_names,
                keep_probabilities,
            )
        )
    return results


def make_instances(
    boxes: Tensor,
    top: TopDetections,
    inverse: Tensor,
    masks: np.ndarray,
    frames: np.ndarray,
    iou: Tensor | None,
    size: tuple[int, int],
    class_names: Sequence[str],
    keep_probabilities: bool,
) -> Instances:
    """The instances of one image, best first.

    boxes: (Q, 4) as cx, cy, w, h in [0, 1]. top: its best pairs. inverse: (N,), which of its M distinct queries each
    pair is of. masks: (M, r, r) probabilities over `frames` (M, 4), x0, y0, x1, y1 in pixels of the image. iou: (M, K)
    or None. size: (height, width). Raises FloatingPointError where scores or boxes are not numbers.
    """
    height, width = size
    corners = box_convert(boxes[top.query_index], "cxcywh", "xyxy") * torch.tensor([width, height, width, height])
    return assemble(
        boxes=corners.numpy(),
        class_scores=top.scores.numpy(),
        labels=top.labels.numpy(),
        masks=masks,
        frames=frames,
        which=inverse.numpy(),
        scores=None if iou is None else (top.scores * iou[inverse, top.labels]).numpy(),
        size=size,
        class_names=class_names,
        keep_probabilities=keep_probabilities,
    )
