"""How far a figure would move with other images: COCO's AP over images drawn anew, again and again.

Each resample draws as many images as there are, with replacement, the same for all runs that are compared: so what is
hard in an image is hard for all, and the interval is that of the difference. AP is accumulated anew over each, as
COCOeval does it; an image that is drawn twice counts twice. Letters: B resamples, I images, D detections, P those that
are right.
"""

from collections.abc import Sequence

import numpy as np

from mask_frozen_detr.results.scoring import ClassMatches

RECALLS = np.linspace(0, 1, 101)  # COCO's
AT_ONCE = 4_000_000  # numbers of one matrix: resamples are taken in parts


def draw_images(images: int, resamples: int, seed: int) -> np.ndarray:
    """(B, I) how often each image is drawn."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)


def average_precision(classes: Sequence[ClassMatches], drawn: np.ndarray) -> np.ndarray:
    """(B, T) AP in percent at each IoU threshold, the mean over the classes that occur in a resample; nan without any.

    drawn: see `draw_images`; of all ones it is COCO's own figure.
    """
    total: np.ndarray | float = 0.0
    present: np.ndarray | float = 0.0
    for one in classes:
        found = _of_class(one, drawn)  # (B, T), nan where the class does not occur
        total, present = total + np.nan_to_num(found), present + ~np.isnan(found)
    with np.errstate(invalid="ignore"):
        return 100 * np.asarray(total) / np.asarray(present)


def interval(values: np.ndarray) -> tuple[float, float]:
    """Within which 95% of the resamples lie; nan where none has a value."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)


def _of_class(one: ClassMatches, drawn: np.ndarray) -> np.ndarray:
    thresholds = len(one.right)
    result = np.full((len(drawn), thresholds), np.nan)
    step = max(1, AT_ONCE // max(1, len(one.image)))
    for start in range(0, len(drawn), step):
        part = drawn[start : start + step]
        objects = part @ one.objects  # (B,)
        weights = part[:, one.image]  # (B, D)
        for t in range(thresholds):
            ap = _interpolated(weights, one.right[t], one.wrong[t], objects)
            result[start : start + step, t] = np.where(objects > 0, ap, np.nan)
    return result


def _interpolated(weights: np.ndarray, right: np.ndarray, wrong: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(B,) the mean over `RECALLS` of the highest precision at that recall or beyond.

    It changes at detections that are right alone: at each its precision counts for the recalls that it is first to
    reach.
    """
    at = np.flatnonzero(right)  # (P,)
    hits = np.cumsum(weights[:, at], axis=1)  # (B, P)
    misses = np.cumsum(weights * wrong, axis=1)[:, at]
    precision = hits / np.maximum(1, hits + misses)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, hits / np.maximum(1, objects)[:, None], side="right")
    new = np.diff(reached, axis=1, prepend=0)
    return (best * new).sum(axis=1) / len(RECALLS)
