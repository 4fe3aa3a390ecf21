"""A data set as COCO's JSON, to which masks are added while all else in it stays as it is.

Of data in COCO's format it is the file's own content, down to keys that nobody here knows; of other formats it is what
was read from them.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.data.coco import CocoData, ImageRecord
from mask_frozen_detr.data.validation import Broken, check_annotation, whole
from mask_frozen_detr.errors import UserError

Box = tuple[float, float, float, float]  # x, y, w, h

QUALITY = "mask_quality"  # the key that every mask has that was added
ADDED = ("segmentation", "area", "iscrowd", "score", QUALITY)  # keys that come with a mask


@dataclass(frozen=True)
class OpenPicture:
    """Boxes of a picture that lack a mask.

    places: of their entries. boxes: (N, 4) float32 x1, y1, x2, y2, pixels. categories: None of those without a class.
    """

    record: ImageRecord
    places: list[int]
    boxes: np.ndarray
    categories: list[int | None]


class Document:
    """The content, and what is open in it.

    redraw: whether masks that are nothing but their box count as lacking. open: pictures with boxes that lack a mask.
    had_masks, rectangles: objects that have one, and those of them, with `redraw` not among them, that are nothing but
    their box. left_out: boxes that get none, counted by the reason. root: the folder that file names start at.
    """

    def __init__(self, data: CocoData, redraw: bool = False):
        self.source = data.annotation_file
        self.records = {record.id: record for record in data.images}
        self.content = _read(data.annotation_file) if data.format == "COCO" else _describe(data)
        self.root = _root(self.content, self.records)
        self.redraw = redraw
        self.had_masks, self.rectangles = 0, 0
        self.left_out: Counter[str] = Counter()
        self.open: list[OpenPicture] = []
        self._find_open()

    @property
    def boxes(self) -> int:
        """How many lack a mask and can get one."""
        return sum(len(picture.places) for picture in self.open)

    def entry(self, place: int) -> dict[str, Any]:
        """An annotation as it stands in the content."""
        return self.content["annotations"][place]

    def add(self, place: int, rle: Mapping[str, Any], area: int, quality: float) -> None:
        """Give an entry its mask; a score that it has is of something else, and stays."""
        entry = self.entry(place)
        entry.update(segmentation=dict(rle), area=area, iscrowd=0)
        entry.setdefault("score", round(quality, 4))
        entry[QUALITY] = round(quality, 4)

    def _find_open(self) -> None:
        found: dict[int, list[tuple[int, Box, int | None]]] = {}
        for place, raw in enumerate(self.content["annotations"]):
            try:
                image_id, box, category = self._check(raw)
            except Broken as fault:
                self.left_out[str(fault).split(":")[0]] += 1
                continue
            if box is not None:
                found.setdefault(image_id, []).append((place, box, category))
        for image_id, boxes in found.items():
            record = self.records[image_id]
            corners = np.array([box for _, box, _ in boxes], np.float32)
            corners[:, 2:] += corners[:, :2]
            corners = corners.clip(0, [record.width, record.height, record.width, record.height])
            places, categories = [place for place, _, _ in boxes], [category for _, _, category in boxes]
            self.open.append(OpenPicture(record, places, corners, categories))

    def _check(self, raw: Any) -> tuple[int, Box | None, int | None]:
        """Image, box and category of an entry; no box where it has a mask. Raises Broken where it gets none."""
        if type(raw) is not dict:
            raise Broken("annotation is not an object")
        if raw.get("segmentation"):
            rectangle = is_box(raw["segmentation"], raw.get("bbox"))
            self.rectangles += rectangle
            if not (rectangle and self.redraw):
                self.had_masks += 1
                return 0, None, 0
        image_id, category = whole(raw.get("image_id")), whole(raw.get("category_id"))
        if image_id is None:
            raise Broken("image_id is missing or no whole number")
        if category is None and raw.get("category_id") is not None:
            raise Broken("category_id is no whole number")
        if image_id not in self.records:
            raise Broken("picture is missing")
        if raw.get("bbox") is None:
            raise Broken("neither mask nor box")
        record = self.records[image_id]
        alone = {"id": 1, "category_id": category or 1, "bbox": raw["bbox"], "iscrowd": raw.get("iscrowd")}
        box = check_annotation(alone, record.width, record.height, Counter())
        if box.iscrowd:
            raise Broken("a crowd's box")
        return image_id, box.bbox, category


def _read(file: Path) -> dict[str, Any]:
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(content.get("info"), dict | None):
        raise UserError(f"{file}: 'info' is a {type(content['info']).__name__}, expected an object")
    return content


def _describe(data: CocoData) -> dict[str, Any]:
    """Data of another format, in COCO's terms."""
    root = os.path.commonpath([record.path.parent.resolve() for record in data.images])
    return {
        "info": {"description": f"Read from {data.format}, {data.annotation_file.name}"},
        "images": [
            {
                "id": record.id,
                "file_name": Path(os.path.relpath(record.path.resolve(), root)).as_posix(),
                "width": record.width,
                "height": record.height,
            }
            for record in data.images
        ],
        "categories": [{"id": key, "name": name} for key, name in data.categories.items()],
        "annotations": [
            {
                "id": one.id,
                "image_id": record.id,
                "category_id": one.category_id,
                "bbox": list(one.bbox),
                "area": one.area,
                "iscrowd": int(one.iscrowd),
                **({} if one.segmentation is None else {"segmentation": _plain(one.segmentation)}),
            }
            for record in data.images
            for one in record.annotations
        ],
    }


def _plain(segmentation: Any) -> Any:
    """Polygons as lists, run lengths as text: as JSON has them."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        plain = counts.decode("ascii") if isinstance(counts, bytes) else counts
        return {"size": list(segmentation["size"]), "counts": plain}
    return [np.asarray(polygon, np.float64).ravel().tolist() for polygon in segmentation]


def _root(content: Mapping[str, Any], records: Mapping[int, ImageRecord]) -> Path:
    """The folder at which the file names start, as far as they tell; else where the first picture lies."""
    names = {whole(image["id"]): Path(image["file_name"].replace("\\", "/")) for image in content["images"]}
    first = next(iter(records.values()))
    path = first.path.absolute()
    name = names[first.id]
    if not name.is_absolute() and path.parts[-len(name.parts) :] == name.parts:
        return Path(*path.parts[: -len(name.parts)])
    return path.parent


def is_box(segmentation: Any, bbox: Any) -> bool:
    """Whether polygons are the four corners of the box, as some tools write what has none."""
    try:
        [polygon] = segmentation
        points = np.array(polygon, np.float64).reshape(-1, 2)
        x, y, w, h = map(float, bbox)
    except (TypeError, ValueError, OverflowError):
        return False
    corners = np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]])
    distances = np.abs(points[:, None] - corners).max(-1)  # (P, 4)
    return len(points) <= 5 and bool((distances.min(0) <= 1).all() and (distances.min(1) <= 1).all())
