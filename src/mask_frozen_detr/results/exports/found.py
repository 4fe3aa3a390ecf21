"""What exports are made from: pictures and the masks found in them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_frozen_detr.results.outlines import Part, outline
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import rle_to_crop

Files = dict[str, bytes | Path]  # of an export, by relative path: content, or the file that a link leads to


@dataclass(frozen=True)
class Object:
    """An instance to export. category: class number. box: x, y, w, h in pixels. rle: COCO's compressed run lengths."""

    category: int
    name: str
    score: float
    box: tuple[float, float, float, float]
    rle: dict[str, Any]

    @property
    def crop(self) -> Crop:
        return rle_to_crop(self.rle)

    @property
    def parts(self) -> list[Part]:
        crop = self.crop
        return outline(crop.values, crop.x, crop.y)


@dataclass(frozen=True)
class Picture:
    """A picture and what was found in it. name: of its files in an export, without suffix, unlike all others."""

    path: Path
    name: str
    width: int
    height: int
    objects: tuple[Object, ...]

    def outlined(self) -> Iterator[tuple[Object, list[Part]]]:
        """The objects that have a pixel, with their outlines."""
        for one in self.objects:
            if parts := one.parts:
                yield one, parts

    def seen_from(self, folder: Path) -> str:
        """The picture's path relative to a folder, with slashes."""
        try:
            return Path(os.path.relpath(self.path, folder)).as_posix()
        except ValueError:  # Windows, another drive
            return self.path.as_posix()


def make_object(entry: Mapping[str, Any], name: str) -> Object:
    """The object that an entry of predictions.json describes."""
    x, y, w, h = entry["bbox"]
    return Object(entry["category_id"], name, entry["score"], (x, y, w, h), entry["segmentation"])
