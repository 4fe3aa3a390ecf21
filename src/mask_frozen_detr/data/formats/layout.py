"""What a format finds in a folder: its splits, each with the way to read it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mask_frozen_detr.data.coco import CocoData, Orientation

SPLITS = ("train", "val", "test")
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Split:
    """place: its annotation file or folder, for messages and to tell splits apart.

    read: of a folder of pictures, None for where the layout has them, and of what orientation tags mean.
    """

    place: Path
    read: Callable[[Path | None, Orientation], CocoData]


@dataclass(frozen=True)
class Layout:
    """The splits by name. lost: those that are named and cannot be used, with the reason.

    single: one file or folder that says nothing of splits: it stands for whichever is asked for.
    """

    splits: dict[str, Split]
    lost: dict[str, str] = field(default_factory=dict)
    single: bool = False
