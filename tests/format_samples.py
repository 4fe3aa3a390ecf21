"""Pictures and shapes for tests of formats: data sets as other tools write them, made without the readers."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import Annotation, ImageRecord

W, H = 40, 30
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]  # x, y, x, y …
TRIANGLE = [20, 4, 36, 4, 36, 24]


def draw(*paths: Path, size: tuple[int, int] = (W, H)) -> None:
    """Grey pictures."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, "grey").save(path)


def square_mask() -> np.ndarray:
    """(H, W) bool of SQUARE, by hand."""
    mask = np.zeros((H, W), bool)
    mask[5:15, 5:15] = True
    return mask


def triangle_mask() -> np.ndarray:
    """(H, W) bool of TRIANGLE, drawn by Pillow four times as large."""
    image = Image.new("L", (4 * W, 4 * H))
    ImageDraw.Draw(image).polygon([4 * value for value in TRIANGLE], fill=1)
    return np.asarray(image).reshape(H, 4, W, 4).mean((1, 3)) >= 0.5


def mask_of(annotation: Annotation, record: ImageRecord) -> np.ndarray:
    """(H, W) bool, drawn by pycocotools."""
    segmentation = annotation.segmentation
    assert segmentation is not None
    if not isinstance(segmentation, dict):
        parts = [list(map(float, part)) for part in segmentation]
        segmentation = coco_mask.merge(coco_mask.frPyObjects(parts, record.height, record.width))
    return coco_mask.decode(segmentation).astype(bool)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())
