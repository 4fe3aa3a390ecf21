"""Boxes and labels as somebody gives them for masks in boxes: checked, and told apart by class."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from mask_frozen_detr.data.classes import normalise
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.results.instances import Instances

UNKNOWN = -1  # the label of a box whose class is not known, or none of the detector's


def check_boxes(boxes: Any, width: int, height: int) -> np.ndarray:
    """Boxes of an image as (N, 4) float32 x1, y1, x2, y2 in its pixels, cut to it.

    Raises UserError, naming the first such box, for another shape, for what is no number, and for boxes that are
    empty, inside out, or wholly outside the image.
    """
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu().float().numpy()
    try:
        given = np.asarray(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(
            f"boxes: found {type(boxes).__name__} that is no array of numbers, expected (N, 4), in pixels"
        ) from None
    if not given.size and given.ndim < 3:
        return np.zeros((0, 4), np.float32)
    if given.ndim != 2 or given.shape[1] != 4:
        single = "; a single box as [box]" if given.shape == (4,) else ""
        raise UserError(f"boxes: found shape {given.shape}, expected (N, 4): x1, y1, x2, y2 in pixels{single}")
    cut = given.clip(0, [width, height, width, height])
    for number, (box, (x1, y1, x2, y2)) in enumerate(zip(given, cut, strict=True)):
        what = f"boxes[{number}]: found {', '.join(f'{side:g}' for side in box)}"
        if not np.isfinite(box).all():
            raise UserError(f"{what}, expected four finite numbers: x1, y1, x2, y2 in pixels")
        if not (box[0] < box[2] and box[1] < box[3]):
            raise UserError(
                f"{what}, expected x1 < x2 and y1 < y2; boxes are corners here, x1, y1, x2, y2: of x, y, width, height "
                "make x, y, x + width, y + height"
            )
        if not (x1 < x2 and y1 < y2):
            raise UserError(f"{what}, which is outside the image of {width} × {height} pixels")
    return cut.astype(np.float32)


def find_labels(labels: Any, count: int, class_names: Sequence[str]) -> tuple[list[int], list[str | None]]:
    """The labels of `count` boxes as class indices, and what each shall be called.

    labels: None, or for each box a class index, a class name in whatever case, or None. A name that is no class of
    the detector gives `UNKNOWN`, and stays the box's name; a name of None leaves the choice to the detector.
    Raises UserError where they are not as many, of another type, or an index is no class.
    """
    if labels is None:
        return [UNKNOWN] * count, [None] * count
    given = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise UserError(f"labels: found {type(labels).__name__}, expected a list with an entry a box")
    if len(given) != count:
        raise UserError(f"labels: found {len(given)} for {count} boxes, expected one a box (None where unknown)")
    by_name = {normalise(name): index for index, name in reversed(list(enumerate(class_names))) if name}
    indices: list[int] = []
    names: list[str | None] = []
    for number, label in enumerate(given):
        if label is None:
            indices.append(UNKNOWN)
            names.append(None)
        elif isinstance(label, str):
            indices.append(by_name.get(normalise(label), UNKNOWN))
            names.append(label)
        elif isinstance(label, int | np.integer) and not isinstance(label, bool) and 0 <= label < len(class_names):
            indices.append(int(label))
            names.append(None)
        else:
            raise UserError(
                f"labels[{number}]: found {printable(repr(label), 40)}, expected a class index from 0 to "
                f"{len(class_names) - 1}, a class name or None"
            )
    return indices, names


def call_by(instances: Instances, names: Sequence[str | None], indices: Sequence[int]) -> Instances:
    """The same instances, those with a name called by it; one that is no class of the detector has no label."""
    labels = instances.labels.copy()
    for number, (name, index) in enumerate(zip(names, indices, strict=True)):
        if name is not None and index == UNKNOWN:
            labels[number] = UNKNOWN
    called = [given or own for given, own in zip(names, instances.names, strict=True)]
    return replace(instances, labels=labels, names=called)
