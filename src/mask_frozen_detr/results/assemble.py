"""From masks in boxes to the instances of one image, in numpy alone: the last step, whoever ran the model.

Letters: N detections of an image, M masks that they share, r side of a mask.
"""

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import mask_confidence, paste_probabilities

MASK_THRESHOLD = 0.5


def check_thresholds(score_threshold: Any, max_detections: Any) -> None:
    """Raises UserError unless the threshold is from 0 to 1 and the detections are a whole number, at least 1."""
    try:
        sane = 0 <= float(score_threshold) <= 1
    except (TypeError, ValueError):
        sane = False
    if not sane:
        raise UserError(f"score_threshold: found {score_threshold!r}, expected a number from 0 to 1")
    try:
        sane = operator.index(max_detections) >= 1
    except TypeError:
        sane = False
    if not sane:
        raise UserError(f"max_detections: found {max_detections!r}, expected a whole number, at least 1")


def assemble(
    boxes: np.ndarray,
    class_scores: np.ndarray,
    labels: np.ndarray,
    masks: np.ndarray,
    frames: np.ndarray,
    which: np.ndarray,
    scores: np.ndarray | None,
    size: tuple[int, int],
    class_names: Sequence[str],
    keep_probabilities: bool = False,
) -> Instances:
    """Paste the masks of one image and score them, best first.

    boxes: (N, 4), x0, y0, x1, y1 in the image's pixels. class_scores, labels: (N,). masks: (M, r, r) probabilities
    over frames (M, 4), as boxes. which: (N,), the mask of each detection. scores: (N,), those of equation 13; None
    makes those of equation 2, whose factor is the mean probability within the pasted mask. size: height and width.
    Raises FloatingPointError where boxes or scores are not numbers.
    """
    height, width = size
    binary, probabilities, confidence = [], [], []
    for mask, frame in zip(masks, frames, strict=True):  # one by one: a hundred large ones would be gigabytes
        pasted = paste_probabilities(mask, frame, height, width)
        binary.append(pasted.above(MASK_THRESHOLD))
        if scores is None:
            confidence.append(mask_confidence(pasted, MASK_THRESHOLD))
        if keep_probabilities:
            probabilities.append(pasted)
    if scores is None:
        scores = class_scores * np.array(confidence, np.float32)[which]
    if np.isnan(scores).any() or np.isnan(boxes).any():
        raise FloatingPointError("boxes or the masks' scores are not numbers (NaN)")
    instances = Instances(
        boxes=boxes,
        scores=scores,
        class_scores=class_scores,
        labels=labels,
        names=[class_names[label] or str(label) for label in labels],
        crops=[binary[k] for k in which],
        height=height,
        width=width,
        probability_crops=[probabilities[k] for k in which] if keep_probabilities else None,
    )
    return instances[np.argsort(-instances.scores, kind="stable")]
