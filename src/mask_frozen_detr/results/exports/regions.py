"""Objects as labelling tools take them: outlines with a name, be they found, drawn by people, or still without a mask.

Letters: P points.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mask_frozen_detr.results.outlines import outline, with_seams
from mask_frozen_detr.results.rle import rle_to_crop


@dataclass(frozen=True)
class Region:
    """One object. box: x, y, w, h in pixels. polygons: (P, 2) x, y each; none where there is no mask yet.

    score: of a mask that was found, or its quality; None for one that people drew. note: what a person reads beside it.
    """

    name: str
    box: tuple[float, float, float, float]
    polygons: list[np.ndarray]
    score: float | None = None
    note: str = ""


def polygons_of(segmentation: Any) -> list[np.ndarray]:
    """COCO's polygons as they are, run lengths as outlines of their parts, with holes on seams of no width."""
    if not segmentation:
        return []
    if isinstance(segmentation, dict):
        crop = rle_to_crop(segmentation)
        return [with_seams(part) for part in outline(crop.values, crop.x, crop.y)]
    return [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]
