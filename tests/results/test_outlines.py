"""Polygons of masks: holes and parts kept, drawn again by Pillow and by COCO, and few corners."""

import numpy as np
import pytest
from format_samples import overlap
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mask_frozen_detr.results.outlines import Part, one_ring, outline

H, W = 120, 160


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:H, :W] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


MASKS = {
    "a disc": disc(60, 60, 40),
    "a ring": disc(60, 60, 40) & ~disc(60, 60, 20),
    "two holes": disc(60, 60, 40) & ~disc(45, 60, 9) & ~disc(75, 55, 12),
    "three parts": disc(30, 30, 20) | disc(100, 40, 25) | disc(60, 95, 15),
    "an island in a hole": (disc(60, 60, 50) & ~disc(60, 60, 35)) | disc(60, 60, 15),
    "a rectangle": np.pad(np.ones((30, 50), bool), ((20, H - 50), (10, W - 60))),
    "a few pixels": np.pad(np.array([[1, 1, 0], [0, 1, 1]], bool), ((9, H - 11), (9, W - 12))),
    "all": np.ones((H, W), bool),
}


def fill(parts: list[Part]) -> np.ndarray:
    """By Pillow, eight times as large; holes and their islands in turn."""
    drawn = np.zeros((H, W), bool)
    for part in parts:
        image = Image.new("L", (8 * W, 8 * H))
        pencil = ImageDraw.Draw(image)
        for ring, colour in [(part.outer, 1), *((hole, 0) for hole in part.holes)]:
            pencil.polygon([(8 * x - 0.5, 8 * y - 0.5) for x, y in ring.tolist()], fill=colour)
        drawn |= np.asarray(image).reshape(H, 8, W, 8).mean((1, 3)) >= 0.5
    return drawn


@pytest.mark.parametrize("name", MASKS)
def test_masks_come_back(name):
    mask = MASKS[name]
    parts = outline(mask)
    assert overlap(fill(parts), mask) > 0.96
    ring = one_ring(parts).astype(float).ravel().tolist()
    drawn = coco_mask.decode(coco_mask.frPyObjects([ring], H, W))[..., 0].astype(bool)
    assert overlap(drawn, mask) > 0.97


def test_few_corners():
    (part,) = outline(MASKS["a disc"])
    assert len(part.outer) < 40
    (part,) = outline(MASKS["a rectangle"], 7, 3)
    assert sorted(part.outer.tolist()) == [[17, 23], [17, 53], [67, 23], [67, 53]]
    assert [len(part.holes) for part in outline(MASKS["an island in a hole"])] == [1, 0]
    assert outline(np.zeros((4, 4), bool)) == []
