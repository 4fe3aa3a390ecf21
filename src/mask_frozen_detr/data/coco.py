"""A split of a data set in COCO's terms: pictures, their objects, and what of them is not used.

Not in the paper. Every format is read into this, see `formats`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from mask_frozen_detr.data.annotation_table import count_crowds
from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.errors import UserError, safe

__all__ = ["Annotation", "ClassChoice", "CocoData", "HeldOut", "ImageRecord", "Orientation", "Skipped", "check_size"]

Orientation = Literal["auto", "apply", "ignore"]
MISSING_PICTURE = "image file is missing"  # kinds of fault for which a whole picture is lost
UNREADABLE_PICTURE = "image file cannot be read"


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image file and what is in it. width, height: pixels, as the annotation file says (see `check_size`)."""

    id: int
    path: Path
    width: int
    height: int
    annotations: Sequence[Annotation]  # as a view of columns, see `annotation_table`, where a file was read
    orientation: Orientation = "auto"  # what a tag in the file means for its annotations, see `orientation`


@dataclass(frozen=True, slots=True)
class Skipped:
    """An annotation or image that is not used."""

    where: str  # "instances_train2017.json, annotation 17 (image 5, dog.jpg)"
    why: str  # "kind of fault: what was found"


@dataclass(frozen=True)
class ClassChoice:
    """What a user chose of the classes of the data.

    chosen: names of those to use, None for all. renamed: name in the data to the name it shall have.
    """

    chosen: tuple[str, ...] | None = None
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """The share of images that became the val split of data without one. of: of which images, see `holdout`."""

    fraction: float
    of: str


@dataclass
class CocoData:
    """One split. categories: id to name, by id. notes: what was mended or is odd but used, with counts.

    annotation_file: what it was read from, a file or a folder. format: of that. choice: what was made of its classes.
    held_out: how train and val were parted, where it was not the data that did.
    """

    annotation_file: Path
    images: list[ImageRecord]
    categories: dict[int, str]
    skipped: list[Skipped]
    notes: dict[str, int] = field(default_factory=dict)
    format: str = "COCO"
    choice: ClassChoice = field(default_factory=ClassChoice)
    held_out: HeldOut | None = None

    def left_out(self) -> Counter[str]:
        """What is not used, counted by kind of fault."""
        return Counter(skipped.why.split(":")[0] for skipped in self.skipped)

    def summary(self) -> str:
        """A line of counts, then one for each kind of fault and each note."""
        instances = sum(len(image.annotations) for image in self.images)
        crowds = sum(count_crowds(image.annotations) for image in self.images)
        bare = sum(not image.annotations for image in self.images)
        lines = [
            f"{self.format}, {self.annotation_file.name}: {len(self.images)} images ({bare} without annotations), "
            f"{instances} instances ({crowds} of them crowds), {len(self.categories)} classes, "
            f"{len(self.skipped)} skipped"
        ]
        first: dict[str, str] = {}
        kinds = self.left_out()
        for skipped in self.skipped:
            where = skipped.where.removeprefix(f"{self.annotation_file.name}, ")
            kind, _, found = skipped.why.partition(":")
            first.setdefault(kind, f"{where}:{found}" if found else where)
        lines += [f"  skipped {n} × {kind}, first: {first[kind]}" for kind, n in kinds.most_common()]
        lines += [f"  note: {n} × {note}" for note, n in self.notes.items()]
        return safe("\n".join(lines))


def check_size(record: ImageRecord, image: Image.Image) -> None:
    """Raises UserError where the opened image has another size than its annotations were made for."""
    if image.size == (record.width, record.height):
        return
    turned = image.size == (record.height, record.width)
    hint = "; was the file turned after it was annotated?" if turned else ""
    raise UserError(
        f"{record.path}: the file is {image.width} × {image.height} pixels, the annotation file says "
        f"{record.width} × {record.height} (image {record.id}){hint}"
    )
