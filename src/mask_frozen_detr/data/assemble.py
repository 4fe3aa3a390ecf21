"""From objects of any format to a checked split: each is tried as one of COCO's would be, counted and numbered."""

from collections import Counter
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.annotation_table import pack
from mask_frozen_detr.data.coco import MISSING_PICTURE, UNREADABLE_PICTURE, CocoData, ImageRecord, Orientation, Skipped
from mask_frozen_detr.data.images import stored_orientation
from mask_frozen_detr.data.validation import Annotation, Broken, check_annotation
from mask_frozen_detr.errors import UserError, reason

TURNING = (5, 6, 7, 8)  # orientation tags that exchange width and height


class Assembly:
    """A split on its way from the files of a format to `CocoData`.

    place: file or folder that it is read from. format: as messages call it. categories: id to name.
    """

    def __init__(self, place: Path, format: str, categories: dict[int, str], orientation: Orientation):
        self.place, self.format, self.categories, self.orientation = place, format, categories, orientation
        self.notes: Counter[str] = Counter()
        self.skipped: list[Skipped] = []
        self._pictures: dict[int, tuple[Path, int, int, list[Annotation]]] = {}
        self._objects = 0

    def add_picture(self, path: Path, size: tuple[int, int], number: int | None = None) -> int:
        """A picture of (width, height) pixels; returns its id: `number`, or one more than there are."""
        number = len(self._pictures) + 1 if number is None else number
        self._pictures[number] = path, *size, []
        return number

    def add_object(self, picture: int, category: int, shape: dict[str, Any], where: str) -> None:
        """An object of a picture; what is broken is skipped.

        shape: "bbox", "segmentation", "iscrowd" and "area" in pixels, as far as they are known, as COCO writes them.
        where: what messages call it.
        """
        _, width, height, kept = self._pictures[picture]
        self._objects += 1
        raw = {"id": self._objects, "category_id": category, **shape}
        try:
            kept.append(check_annotation(raw, width, height, self.notes))
        except Broken as fault:
            self.skip(where, str(fault))

    def skip(self, where: str, why: str) -> None:
        """Something is not used. why: "kind of fault: what was found"."""
        self.skipped.append(Skipped(where, why))

    def measure(self, path: Path) -> tuple[int, int] | None:
        """Width and height of a picture as annotators saw it; None, and it is skipped, where it cannot be read.

        Upright, as labelling tools show photos, unless orientation tags are to be ignored.
        """
        try:
            tag, (width, height) = stored_orientation(path)
        except UserError as error:
            self.skip(str(path), f"{UNREADABLE_PICTURE}: {reason(error)}")
            return None
        return (height, width) if tag in TURNING and self.orientation != "ignore" else (width, height)

    def finish(self) -> CocoData:
        """Raises UserError where there is no picture, or of all objects not one can be used."""
        groups = pack((kept, (height, width)) for _, width, height, kept in self._pictures.values())
        records = [
            ImageRecord(number, path, width, height, group, self.orientation)
            for (number, (path, width, height, _)), group in zip(self._pictures.items(), groups, strict=True)
        ]
        data = CocoData(self.place, records, self.categories, self.skipped, dict(self.notes), self.format)
        if not records:
            raise UserError(f"{self.place}: no picture with its labels can be used\n{data.summary()}")
        faults = [fault for fault in data.left_out() if fault not in (MISSING_PICTURE, UNREADABLE_PICTURE)]
        if faults and not any(record.annotations for record in records):
            raise UserError(f"{self.place}: none of its objects can be used\n{data.summary()}")
        return data
