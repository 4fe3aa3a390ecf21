"""Masks in given boxes with more looks at the picture: small objects from near, and each in the mirror.

A detector looks at the whole picture at a size of its own, in which a small object is a few cells of its maps. Cut out
with its surroundings it fills them, and its mask is better by several points of IoU. The mirrored picture tells how far
the masks are to be trusted: where the two disagree, one of them is wrong. Figures: benchmarks/given_boxes.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.paste import Crop

Look = Callable[[Image.Image, np.ndarray, Sequence[int]], Instances]  # a picture, its boxes and their labels

NEAR_BELOW = 0.35  # of the picture's sides: larger boxes gain nothing from a nearer look
AROUND = 2.0  # the side of what is cut out, in longer sides of the box
SMALLEST_PIECE = 64  # pixels of that side at least


def segment_carefully(look: Look, image: Image.Image, boxes: np.ndarray, labels: Sequence[int]) -> Instances:
    """What `look` finds in `boxes` (N, 4), x1, y1, x2, y2 in pixels of `image`, with a nearer look at small ones.

    `scores` are lowered by the root of the overlap with the mirrored picture's masks. One look at the picture, one at
    the mirrored picture, and one for each small box.
    """
    plain = look(image, boxes, labels)
    if not len(boxes):
        return plain
    mirrored = look(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), _mirror(boxes, image.width), labels)
    agreement = [
        _overlap(one, _turned(other, image.width)) for one, other in zip(plain.crops, mirrored.crops, strict=True)
    ]
    near = ((boxes[:, 2:] - boxes[:, :2]) / [image.width, image.height]).max(1) < NEAR_BELOW
    looked_at = [_from_near(look, image, boxes[k], labels[k]) if near[k] else plain[k] for k in range(len(boxes))]
    joined = Instances.joined(looked_at)
    return replace(joined, scores=(joined.scores * np.sqrt(agreement)).astype(np.float32))


def _from_near(look: Look, image: Image.Image, box: np.ndarray, label: int) -> Instances:
    """A box in a piece of the picture, given in pixels of the whole."""
    left, top, right, bottom = surroundings(box, image.width, image.height)
    corner = np.array([left, top, left, top], np.float32)
    near = look(image.crop((left, top, right, bottom)), box[None] - corner, [label])
    return replace(
        near,
        boxes=box[None],
        crops=_moved(near.crops, left, top),
        probability_crops=None if near.probability_crops is None else _moved(near.probability_crops, left, top),
        height=image.height,
        width=image.width,
    )


def surroundings(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """A square around a box x1, y1, x2, y2, moved into the picture and cut to it: left, top, right, bottom."""
    x1, y1, x2, y2 = box.tolist()
    side = max(AROUND * max(x2 - x1, y2 - y1), SMALLEST_PIECE)
    edges = []
    for low, high, length in ((x1, x2, width), (y1, y2, height)):
        extent = min(side, length)
        start = int(min(max((low + high - extent) / 2, 0), length - extent))
        edges.append((start, min(length, int(np.ceil(start + extent + 1)))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _moved(crops: Sequence[Crop], right: int, down: int) -> list[Crop]:
    return [Crop(one.x + right, one.y + down, one.values) for one in crops]


def _mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1).astype(np.float32)


def _turned(crop: Crop, width: int) -> Crop:
    """A mask of the mirrored picture, in the picture."""
    return Crop(width - crop.x - crop.values.shape[1], crop.y, crop.values[:, ::-1])


def _overlap(one: Crop, other: Crop) -> float:
    """IoU of two binary masks; 0 where both are empty."""
    (h, w), (other_h, other_w) = one.values.shape, other.values.shape
    left, top = max(one.x, other.x), max(one.y, other.y)
    right, bottom = min(one.x + w, other.x + other_w), min(one.y + h, other.y + other_h)
    shared = 0
    if left < right and top < bottom:
        first = one.values[top - one.y : bottom - one.y, left - one.x : right - one.x]
        second = other.values[top - other.y : bottom - other.y, left - other.x : right - other.x]
        shared = int(np.count_nonzero(first & second))
    union = np.count_nonzero(one.values) + np.count_nonzero(other.values) - shared
    return shared / union if union else 0.0
