"""What an evaluation measured and what it left out: as a table, as JSON, and read back."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.errors import UserError, printable, shorten
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.regular_files import check_regular, read_regular
from mask_frozen_detr.results.scoring import COCO_DETECTIONS, counted

LARGEST = 1_000_000_000  # bytes, of a file that holds an evaluation
# 1, without the key: mask AP of small, medium and large objects is by box area. 2: by mask area.
FORMAT = 2


SIZES = ("AP50", "AP75", "APs", "APm", "APl")  # beside AP, figures of every evaluation


@dataclass(frozen=True)
class LeftOut:
    """What the figures do not cover, counted."""

    missing_images: int = 0  # listed in the annotation file, not on the disk
    unreadable_images: int = 0  # on the disk, but something failed on them: `Evaluation.problems` tells what
    broken_annotations: dict[str, int] = field(default_factory=dict)  # by kind of fault
    annotations_without_class: int = 0  # of categories that the detector lacks
    objects_without_mask: int = 0  # scored as boxes; as masks, what is found within their boxes is ignored

    def lines(self) -> list[str]:
        """A line for each kind that occurred."""
        said = [
            (self.missing_images, "images are missing"),
            (self.unreadable_images, "images cannot be used"),
            *((count, f"annotations are broken: {printable(kind)}") for kind, count in self.broken_annotations.items()),
            (self.annotations_without_class, "annotations are of categories that the detector lacks"),
            (
                self.objects_without_mask,
                "objects have a box and no mask: scored as boxes, and masks found within those boxes are ignored",
            ),
        ]
        return [f"left out: {count} {what}" for count, what in said if count]


@dataclass
class Evaluation:
    """box and mask: the 12 COCO figures in percent (nan where there is nothing to measure)."""

    box: dict[str, float]
    mask: dict[str, float]
    box_by_class: dict[str, float]
    mask_by_class: dict[str, float]
    images: int  # that the figures are of
    seconds: float  # all of it: reading, both networks, encoding, scoring
    classes: str  # how classes met categories
    problems: list[str] = field(default_factory=list)  # images that could not be used, a line each
    images_in_all: int | None = None  # of the annotation file, with missing and unreadable ones; None: not recorded
    left_out: LeftOut = field(default_factory=LeftOut)
    categories_without_class: list[str] = field(default_factory=list)
    max_detections: int = COCO_DETECTIONS  # an image
    score_threshold: float = 0.0  # class scores at most this were left out
    notes: dict[str, int] = field(default_factory=dict)  # what of the data was mended or is odd but used, counted
    supervision: str = ""  # how the masks were learned, where not from drawn ones alone
    mirror: bool = False  # masks are the mean with a look in the mirror
    scorer: str = "hotcoco"  # library and version
    format: int = FORMAT

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as JSON holds it: nan as null, figures to four places."""

        def clean(values: dict[str, float]) -> dict[str, float | None]:
            return {key: None if np.isnan(value) else round(value, 4) for key, value in values.items()}

        pairs = zip(clean(self.box_by_class).items(), clean(self.mask_by_class).values(), strict=True)
        return {
            "format": self.format,
            "box": clean(self.box),
            "mask": clean(self.mask),
            "by_class": {name: {"box": box, "mask": mask} for (name, box), mask in pairs},
            "images": self.images,
            "images_in_all": self.images_in_all,
            "left_out": asdict(self.left_out),
            "categories_without_class": self.categories_without_class,
            "notes": self.notes,
            "seconds": round(self.seconds, 2),
            "classes": self.classes,
            "problems": self.problems,
            "max_detections": self.max_detections,
            "score_threshold": self.score_threshold,
            "supervision": self.supervision,
            "mirror": self.mirror,
            "scorer": self.scorer,
        }

    def remarks(self) -> list[str]:
        """What was left out and what else is to be known of the data, a line for each kind that occurred."""
        return [*self.left_out.lines(), *(f"note: {count} × {printable(what)}" for what, count in self.notes.items())]

    def manner(self) -> list[str]:
        """How masks were learned, where not from drawn ones alone, and made, where not with one look."""
        mirror = "masks: each the mean with one of a look in the mirror" if self.mirror else ""
        return [line for line in (self.supervision, mirror) if line]

    def coverage(self) -> str:
        """Says of how many images the figures are, and how many detections of each they count."""
        of = f"{self.images} of {self.images_in_all} images" if self.images_in_all is not None else "images not counted"
        count = f"up to {counted(self.max_detections)} detections each" if self.max_detections > COCO_DETECTIONS else ""
        if self.max_detections < COCO_DETECTIONS:
            count = f"at most {self.max_detections} detections each"
        return f"AP over {of}" + (f", {count}" if count else "")

    def table(self, by_class: bool = False) -> str:
        """A plain text table, with what was left out below it."""

        def row(name: str, values: dict[str, float]) -> str:
            return f"{name:<6}" + "".join(f"{_shown(value):>7}" for value in values.values())

        lines = [
            " " * 6 + "".join(f"{name:>7}" for name in self.box),
            row("box", self.box),
            row("mask", self.mask),
            self.coverage(),
            *self.manner(),
            *self.remarks(),
        ]
        if self.categories_without_class:
            names = shorten(map(printable, self.categories_without_class))
            lines.append(f"left out: categories that the detector lacks: {names}")
        if by_class:
            lines += ["", f"{'class':<24}{'box AP':>8}{'mask AP':>8}"]
            for name, box in self.box_by_class.items():
                lines.append(f"{printable(name):<24}{_shown(box):>8}{_shown(self.mask_by_class[name]):>8}")
        return "\n".join(lines)


def write_evaluation(path: Path, evaluation: Evaluation, **extra: Any) -> None:
    """JSON beside a run. extra: what else is to be told, such as the model's name.

    Raises UserError as `check_evaluation_file` does, or where it cannot be written.
    """
    check_evaluation_file(path)
    write_json_atomic(path, {**extra, **evaluation.as_dict()})


def check_evaluation_file(path: Path) -> None:
    """Raises UserError where `path` is there already and holds no evaluation: an annotation file, say."""
    check_regular(path, "an evaluation")
    if path.exists() and path.stat().st_size:
        try:
            read_evaluation(path)
        except UserError as error:
            raise UserError(f"{path}: is there already and holds no evaluation; name another file") from error


def read_evaluation(path: Path) -> Evaluation:
    """What `write_evaluation` wrote, in this or an earlier format. Raises UserError where the file is damaged."""

    def figures(values: dict[str, float | None]) -> dict[str, float]:
        return {key: float("nan") if value is None else float(value) for key, value in values.items()}

    try:
        saved = json.loads(read_regular(path, LARGEST))
        if type(saved["images"]) is not int or not {"AP", *SIZES} <= saved["box"].keys() & saved["mask"].keys():
            raise ValueError(f"expected a number of images, and the figures AP, {', '.join(SIZES)}")
        newer = {
            "images_in_all",
            "categories_without_class",
            "max_detections",
            "score_threshold",
            "scorer",
            "supervision",
            "mirror",
        }
        known = {item.name for item in fields(LeftOut)}
        return Evaluation(
            figures(saved["box"]),
            figures(saved["mask"]),
            figures({name: pair["box"] for name, pair in saved["by_class"].items()}),
            figures({name: pair["mask"] for name, pair in saved["by_class"].items()}),
            saved["images"],
            saved["seconds"],
            saved["classes"],
            list(saved["problems"]),
            left_out=LeftOut(**{key: value for key, value in saved.get("left_out", {}).items() if key in known}),
            notes={printable(str(what)): int(count) for what, count in saved.get("notes", {}).items()},
            format=saved.get("format", 1),
            **{key: saved[key] for key in newer & saved.keys()},
        )
    except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: is no evaluation: {error}") from error


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.1f}"
