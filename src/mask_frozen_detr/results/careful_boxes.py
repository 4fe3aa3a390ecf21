"""Masks in given boxes with more looks at the picture: each in the mirror, and all but large objects from near.

A detector looks at the whole picture at a size of its own, in which a small object is a few cells of its maps. Cut out
with its surroundings it fills them, and its mask is better by several points of IoU; so is the mean of two looks, one
of them in the mirror. Where the two disagree, one of them is wrong: so they tell how far a mask is to be trusted.
Figures: benchmarks/given_boxes.py.

Letters: N boxes, r side of a mask.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from mask_frozen_detr.results.assemble import MASK_THRESHOLD
from mask_frozen_detr.results.box_answers import BoxAnswers

Look = Callable[[Image.Image, np.ndarray, Sequence[int]], BoxAnswers]  # a picture, its boxes and their labels

NEAR_BELOW = 0.6  # of the picture's sides: larger boxes gain nothing from a nearer look
# The side of what is cut out, in longer sides of the box. Two looks of different width teach more than two of one.
AROUND, AROUND_IN_THE_MIRROR = 3.0, 2.0
SMALLEST_PIECE = 64  # pixels of that side at least


def look_carefully(look: Look, image: Image.Image, boxes: np.ndarray, labels: Sequence[int]) -> BoxAnswers:
    """What `look` finds in `boxes` (N, 4), N > 0, x1, y1, x2, y2 in pixels of `image`, as the mean of two
    looks.

    One look at the picture, one at the mirrored picture, and two for each box that is not large, which are taken in
    their place. `trust` is the root of the overlap of a pair's masks; of two pairs, the root of their product.
    """
    plain = look(image, boxes, labels)
    mirrored = look(*_mirror(image, boxes), labels)
    answers = _pair(plain, mirrored)
    near = ((boxes[:, 2:] - boxes[:, :2]) / [image.width, image.height]).max(1) < NEAR_BELOW
    for k in np.flatnonzero(near).tolist():
        piece, box = cut_out(image, boxes[k], AROUND)
        turned, turned_box = _mirror(*cut_out(image, boxes[k], AROUND_IN_THE_MIRROR))
        closer = _pair(look(piece, box, [labels[k]]), look(turned, turned_box, [labels[k]]))
        answers.masks[k] = closer.masks[0]
        answers.trust[k] = np.sqrt(answers.trust[k] * closer.trust[0])
        if answers.quality is not None and closer.quality is not None:
            answers.quality[k] = closer.quality[0]
    return answers


def _pair(plain: BoxAnswers, mirrored: BoxAnswers) -> BoxAnswers:
    """The mean of a look and of one in the mirror, of the same boxes in the same frames."""
    turned = mirrored.masks[:, :, ::-1]
    quality = None
    if plain.quality is not None and mirrored.quality is not None:
        quality = (plain.quality + mirrored.quality) / 2
    trust = np.sqrt(_overlaps(plain.masks > MASK_THRESHOLD, turned > MASK_THRESHOLD))
    return replace(plain, masks=(plain.masks + turned) / 2, quality=quality, trust=trust)


def cut_out(image: Image.Image, box: np.ndarray, around: float) -> tuple[Image.Image, np.ndarray]:
    """A box (4,) with its surroundings: the piece of the picture, and the box in it, (1, 4)."""
    left, top, right, bottom = surroundings(box, image.width, image.height, around)
    return image.crop((left, top, right, bottom)), box[None] - np.array([left, top, left, top], np.float32)


def surroundings(box: np.ndarray, width: int, height: int, around: float) -> tuple[int, int, int, int]:
    """A square around a box x1, y1, x2, y2, moved into the picture and cut to it: left, top, right, bottom."""
    x1, y1, x2, y2 = box.tolist()
    side = max(around * max(x2 - x1, y2 - y1), SMALLEST_PIECE)
    edges = []
    for low, high, length in ((x1, x2, width), (y1, y2, height)):
        extent = min(side, length)
        start = int(min(max((low + high - extent) / 2, 0), length - extent))
        edges.append((start, min(length, int(np.ceil(start + extent + 1)))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


def _mirror(image: Image.Image, boxes: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    flipped = np.stack([image.width - boxes[:, 2], boxes[:, 1], image.width - boxes[:, 0], boxes[:, 3]], 1)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), flipped.astype(np.float32)


def _overlaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """IoU of binary masks (N, r, r), one by one: (N,); 0 where both are empty."""
    shared = np.count_nonzero(ours & theirs, axis=(1, 2))
    return shared / np.maximum(np.count_nonzero(ours | theirs, axis=(1, 2)), 1)
