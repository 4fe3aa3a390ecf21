"""Masks for boxes that are given, not detected: for each the query that fits it best, and the box itself as the frame.

Not in the paper. A frozen detector looks at the image as ever; its queries know what is where, and one of them is
asked for the mask in a box that somebody drew, also where the detector's own box would be another or its score low.
Letters: B images, Q queries, K classes, N boxes of an image, M boxes over all images.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert

from mask_frozen_detr.detectors.base import Detections, FrozenDetector, ScoreRule
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.network import MaskNetwork
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.results.box_answers import BoxAnswers
from mask_frozen_detr.results.box_inputs import UNKNOWN
from mask_frozen_detr.results.careful_boxes import look_carefully
from mask_frozen_detr.results.instances import Instances

CLASS_WEIGHT = 0.25  # of the class's probability beside the overlap


def choose_queries(
    detections: Detections, rule: ScoreRule, image_index: Tensor, boxes: Tensor, labels: Tensor | None = None
) -> Tensor:
    """The query that fits each box best: its own box overlaps most, and it is sure of the class.

    Each box chooses for itself, so that one query may serve several.

    image_index: (M,), the image each box is in. boxes: (M, 4) as cx, cy, w, h in [0, 1] of the unpadded image.
    labels: (M,) class indices, `UNKNOWN` where there is none; None where no box has one. A box without a label takes
        the query's best class for it.
    Returns: query indices (M,), on the detections' device, as all of it is best.
    """
    device = detections.boxes.device
    image_index, boxes = image_index.to(device), boxes.to(device, torch.float32)
    candidates = detections.boxes.float()[image_index]  # (M, Q, 4)
    scores = rule.scores(detections.logits.float())  # (B, Q, K)
    sure = scores.amax(-1)[image_index]  # (M, Q)
    if labels is not None:
        labels = labels.to(device)
        of_class = scores.transpose(1, 2)[image_index, labels.clamp(min=0)]  # (M, Q)
        sure = torch.where(labels[:, None] == UNKNOWN, sure, of_class)
    return (_overlaps(candidates, boxes) + CLASS_WEIGHT * sure).argmax(1)


def _overlaps(candidates: Tensor, boxes: Tensor) -> Tensor:
    """IoU of (M, Q, 4) boxes with (M, 4), as cx, cy, w, h: (M, Q). A box that is inside out overlaps nothing."""
    ours, given = box_convert(candidates, "cxcywh", "xyxy"), box_convert(boxes, "cxcywh", "xyxy")[:, None]
    both = torch.minimum(ours[..., 2:], given[..., 2:]) - torch.maximum(ours[..., :2], given[..., :2])
    shared = both.clamp(min=0).prod(-1)
    areas = candidates[..., 2:].clamp(min=0).prod(-1) + boxes[:, None, 2:].prod(-1)
    return shared / (areas - shared).clamp(min=torch.finfo(torch.float32).tiny)


@torch.no_grad()
def answer_boxes(
    detector: FrozenDetector,
    network: MaskNetwork,
    pixel_values: Tensor,
    pixel_mask: Tensor,
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[np.ndarray],
    labels: Sequence[Sequence[int]],
) -> list[BoxAnswers]:
    """Masks in given boxes of each image of a batch, in their order.

    pixel_values (B, 3, H, W), pixel_mask (B, H, W), best on the host; sizes: (height, width) of the B original
    images. boxes: of each image (N, 4) float32 x1, y1, x2, y2 in its pixels, as `check_boxes` gives them.
    labels: of each image N class indices, or `UNKNOWN`: then the chosen query's best class is the box's.

    `quality` is the predicted IoU of equation 12 for the class; `class_scores` are the chosen queries' for it.
    """
    counts = [len(of_image) for of_image in boxes]
    detections = detector(pixel_values, pixel_mask)
    image_index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(counts))
    original = torch.tensor([(width, height) for height, width in sizes])
    corners = torch.from_numpy(np.concatenate([one.reshape(-1, 4) for one in boxes]))
    given = box_convert(corners / original.repeat(1, 2)[image_index], "xyxy", "cxcywh")  # (M, 4)
    wanted = torch.tensor([label for of_image in labels for label in of_image], dtype=torch.int64)
    rule = detector.info.score_rule
    query_index = choose_queries(detections, rule, image_index, given, wanted).cpu()
    output = network(detections, pixel_mask, image_index, query_index, given)
    scores = rule.scores(detections.logits.float()).cpu()[image_index, query_index]  # (M, K)
    classes = torch.where(wanted == UNKNOWN, scores.argmax(1), wanted)
    scale = (original / extents(pixel_mask).cpu()).repeat(1, 2)[image_index]
    answers = BoxAnswers(
        boxes=corners.numpy(),
        labels=classes.numpy(),
        class_scores=scores.gather(1, classes[:, None])[:, 0].numpy(),
        masks=output.logits.float().sigmoid().cpu().numpy(),
        frames=(output.frames.float().cpu() * scale).numpy(),
        quality=None if output.iou is None else output.iou.float().cpu().gather(1, classes[:, None])[:, 0].numpy(),
        trust=np.ones(len(corners), np.float32),
    )
    ends = np.cumsum(counts).tolist()
    return [answers.part(end - count, end) for count, end in zip(counts, ends, strict=True)]


def look_into_boxes(
    detector: FrozenDetector,
    network: MaskNetwork,
    class_names: Sequence[str],
    picture: Image.Image,
    boxes: np.ndarray,
    labels: Sequence[int],
    keep_probabilities: bool = False,
    careful: bool = False,
) -> Instances:
    """Masks in given boxes (N, 4) of one RGB picture, on the detector's device, in their order.

    careful: as `look_carefully` looks. Scores say how good the masks are, without the class: the predicted IoU, or
    the mean probability within the mask, times `BoxAnswers.trust`. Raises FloatingPointError where scores are not
    numbers.
    """
    size = picture.height, picture.width
    if not len(boxes):
        return Instances.empty(*size)
    network.eval()
    device = next(detector.parameters()).device

    def look(picture: Image.Image, boxes: np.ndarray, labels: Sequence[int]) -> BoxAnswers:
        pixel_values, pixel_mask = collate_images([detector.info.preprocessing(picture)])
        sizes = [(picture.height, picture.width)]
        return answer_boxes(detector, network, send(pixel_values, device), pixel_mask, sizes, [boxes], [labels])[0]

    answers = look_carefully(look, picture, boxes, labels) if careful else look(picture, boxes, labels)
    return answers.instances(size, class_names, keep_probabilities)
