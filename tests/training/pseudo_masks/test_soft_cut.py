"""Masks from pixels and boxes alone: how near to the truth of scenes they come, and boxes of every kind."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.results.paste import paste_probabilities
from mask_frozen_detr.results.rle import segmentation_to_rle
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.pseudo_masks.soft_cut import inside_image, soft_cut


def disc(size: tuple[int, int], box: tuple[int, int, int, int], colour="red", ground="green") -> Image.Image:
    image = Image.new("RGB", size, ground)
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return image


def covered(box: tuple[float, float, float, float], cells: int = MASK_SIDE) -> np.ndarray:
    """The ellipse that touches all sides of its box, on the box's grid."""
    off = (np.arange(cells) + 0.5) / cells * 2 - 1
    return off[:, None] ** 2 + off**2 <= 1


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max(1, (a | b).sum()))


def test_scenes(scenes):
    """Six shapes on textured grounds; boxes as masks reach 0.61 of them."""
    ours: list[float] = []
    boxes: list[float] = []
    for record in scenes[0].images[:6]:
        image = open_picture(record)
        for annotation in record.annotations:
            truth = coco_mask.decode(segmentation_to_rle(annotation.segmentation, record.height, record.width)) > 0
            x, y, w, h = annotation.bbox
            box = inside_image((x, y, x + w, y + h), record.width, record.height)
            chances = soft_cut(image, box).astype(np.float32) / 255
            for found, values in ((ours, chances), (boxes, np.ones_like(chances))):
                pasted = paste_probabilities(values, box, record.height, record.width).above()
                found.append(iou(pasted.full(record.height, record.width), truth))
    assert np.mean(ours) > 0.65
    assert np.mean(ours) > np.mean(boxes) + 0.1


def test_a_disc_on_plain_ground():
    box = (30, 20, 90, 100)
    mask = soft_cut(disc((160, 120), box), box)
    assert mask.shape == (MASK_SIDE, MASK_SIDE)
    assert mask.dtype == np.uint8
    assert iou(mask > 127, covered(box)) > 0.93
    assert np.array_equal(mask, soft_cut(disc((160, 120), box), box)), "the same picture, another mask"


def test_what_is_drawn_is_soft_where_nothing_tells():
    """Object and ground of one colour: likelier at the middle than at the corners, and sure nowhere."""
    mask = soft_cut(Image.new("RGB", (100, 100), "grey"), (20, 20, 80, 80)) / 255
    assert mask[56, 56] > 0.5 > mask[0, 0]
    assert mask.max() < 0.99


@pytest.mark.parametrize(
    "box",
    [
        (-20.0, -10.0, 50.0, 60.0),  # beyond the image
        (0.0, 0.0, 64.0, 48.0),  # all of it
        (10.0, 10.0, 10.6, 40.0),  # thinner than a pixel
        (30.25, 30.75, 31.0, 31.5),  # smaller than a pixel
        (63.5, 47.5, 64.0, 48.0),  # its last corner
        (0.0, 20.0, 64.0, 21.0),
    ],
)
def test_boxes_of_every_kind(box):
    mask = soft_cut(disc((64, 48), (20, 10, 44, 38)), box)
    assert mask.shape == (MASK_SIDE, MASK_SIDE)
    assert mask.any()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (2000, 2)])
def test_pictures_of_every_size(size):
    assert soft_cut(Image.new("RGB", size, "white"), (0.0, 0.0, float(size[0]), float(size[1]))).any()
