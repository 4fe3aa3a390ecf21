"""What a format finds in a folder: its splits, each with the way to read it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from mask_frozen_detr.data.coco import CocoData, Orientation
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.regular_files import check_regular

SPLITS = ("train", "val", "test")
HEAD = 1 << 16  # bytes of a file that tell its format
SPLIT_WORDS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Split:
    """A split that was found, not yet read.

    place: its annotation file or folder, for messages and to tell splits apart. read: of a folder of pictures, None for
    where the layout has them, and of what orientation tags mean.
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


def find_exports(
    path: Path,
    format: str,
    names: str,
    is_export: Callable[[Path], bool],
    read: Callable[[Path, Path | None, Orientation], CocoData],
) -> Layout | None:
    """The JSON files of a format that writes all pictures of a project into one: `path`, one a split, or a folder's.

    format: its name, for messages. names: a pattern for files in folders; a split's lies in its folder or is named
    after it. read: as `Split.read`, with the file before. Raises UserError for several in one folder: none may be left
    unread without a word.
    """
    if path.is_file():
        if path.suffix.lower() != ".json" or not is_export(path):
            return None
        return Layout({split: Split(path, partial(read, path)) for split in SPLITS}, single=True)

    def only(*candidates: Path) -> Path | None:
        files = [file for file in candidates if fnmatchcase(file.name, names) and is_export(file)]
        if len(files) > 1:
            one, other = (file.relative_to(path) for file in files[:2])
            raise UserError(f"{path}: {one} and {other} are both exports of {format}; give one of them")
        return files[0] if files else None

    splits: dict[str, Split] = {}
    for word, split in SPLIT_WORDS.items():
        file = only(path / f"{word}.json", *sorted((path / word).glob("*.json")))
        if file is not None:
            splits.setdefault(split, Split(file, partial(read, file)))
    file = None if splits else only(*sorted(path.glob("*.json")))
    if file is not None:
        splits["train"] = Split(file, partial(read, file))
    return Layout(splits) if splits else None


def read_head(file: Path) -> bytes:
    """The first bytes of a file, by which a format is known; none of what cannot be read or is no regular file."""
    try:
        check_regular(file)
        with open(file, "rb") as opened:
            return opened.read(HEAD)
    except (OSError, UserError):
        return b""
