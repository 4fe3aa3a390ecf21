"""Objects as labelling tools take them for a start: tasks of Label Studio, files of LabelMe.

Unlike what `predict` exports these hold masks that people drew, which have no score, and boxes that got no mask.
Letters: P points.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mask_frozen_detr.annotation.labelled_file import MADE_BY
from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.results.exports.labelme import VERSION
from mask_frozen_detr.results.outlines import outline, with_seams
from mask_frozen_detr.results.rle import rle_to_crop


@dataclass(frozen=True)
class Shape:
    """One object. box: x, y, w, h in pixels. polygons: (P, 2) x, y each; none where no mask was found.

    quality: None for a mask that was there before.
    """

    name: str
    box: tuple[float, float, float, float]
    polygons: list[np.ndarray]
    quality: float | None = None


def polygons_of(segmentation: Any) -> list[np.ndarray]:
    """COCO's polygons as they are, run lengths as outlines of their parts, with holes on seams of no width."""
    if not segmentation:
        return []
    if isinstance(segmentation, dict):
        crop = rle_to_crop(segmentation)
        return [with_seams(part) for part in outline(crop.values, crop.x, crop.y)]
    return [np.asarray(polygon, np.float64).reshape(-1, 2) for polygon in segmentation]


def label_studio_task(record: ImageRecord, shapes: Sequence[Shape], root: Path) -> dict[str, Any]:
    """A task with predictions, as Label Studio imports it: polygons, and boxes of what has no mask.

    The picture is named as its local file storage serves it, relative to `root`.
    """
    size = np.array([record.width, record.height])
    results = []
    for number, shape in enumerate(shapes, 1):
        common: dict[str, Any] = {
            "from_name": "label",
            "to_name": "image",
            "original_width": record.width,
            "original_height": record.height,
            "image_rotation": 0,
            **({} if shape.quality is None else {"score": shape.quality}),
        }
        for part, polygon in enumerate(shape.polygons, 1):
            points = (polygon / size * 100).round(4).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [shape.name]}
            results.append({"id": f"{number}-{part}", "type": "polygonlabels", "value": value, **common})
        if not shape.polygons:
            x, y, w, h = (100 * np.array(shape.box) / np.tile(size, 2)).tolist()
            value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [shape.name]}
            results.append({"id": f"{number}", "type": "rectanglelabels", "value": value, **common, "from_name": "box"})
    address = Path(os.path.relpath(record.path.absolute(), root)).as_posix()
    worst = min((shape.quality for shape in shapes if shape.quality is not None), default=1.0)
    return {
        "data": {"image": f"/data/local-files/?d={quote(address)}"},
        "predictions": [{"model_version": MADE_BY, "score": worst, "result": results}],
    }


def labelme_file(record: ImageRecord, shapes: Sequence[Shape], folder: Path) -> dict[str, Any]:
    """What LabelMe opens for a picture, lying in `folder`; parts of one object are one group."""
    listed = []
    for number, shape in enumerate(shapes, 1):
        x, y, w, h = shape.box
        described: dict[str, Any] = {
            "label": shape.name,
            "group_id": number if len(shape.polygons) > 1 else None,
            "description": "" if shape.quality is None else f"mask quality {shape.quality:.2f}",
            "flags": {},
        }
        listed += [{**described, "shape_type": "polygon", "points": polygon.tolist()} for polygon in shape.polygons]
        if not shape.polygons:
            listed.append({**described, "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]})
    return {
        "version": VERSION,
        "flags": {},
        "shapes": listed,
        "imagePath": os.path.relpath(record.path.absolute(), folder.absolute()),
        "imageData": None,
        "imageHeight": record.height,
        "imageWidth": record.width,
    }
