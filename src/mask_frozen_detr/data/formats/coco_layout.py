"""Finding the splits of a COCO-format folder by its layout: COCO's own, Roboflow's, and plain ones."""

import os
import re
from collections.abc import Collection
from pathlib import Path

from mask_frozen_detr.data.formats.layout import SPLIT_WORDS
from mask_frozen_detr.data.images import SUFFIXES

_WORD = "|".join(SPLIT_WORDS)
# instances_train2017, train, valid_annotations, image_info_test-dev2017 …
_STEM = re.compile(
    rf"(?P<kind>(?:instances|annotations|coco|image_info)[_-])?(?P<word>{_WORD})(?P<dev>-dev)?[_-]?(?P<year>\d{{4}})?"
    r"(?:[_-](?:instances|annotations|coco))?",
    re.IGNORECASE,
)
# Annotation files inside a split's own folder; the first is Roboflow's.
_BESIDE = (
    *("_annotations.coco.json", "annotations.coco.json", "annotations.json"),
    *("labels.json", "result.json", "instances_default.json"),  # FiftyOne's, Label Studio's, CVAT's
)
# Of a folder without named splits: its one annotation file is the training data. CVAT's default subset, Label Studio's
# and FiftyOne's exports, Roboflow's and VIA's without splits.
_WHOLE = (
    *("annotations/instances_default.json", "instances_default.json", "result.json", "labels.json"),
    *("_annotations.coco.json", "annotations.coco.json", "annotations.json", "coco.json", "via_export_coco.json"),
)
_PICTURES = ("images/default", "images", "data", "default")  # beside such a file or a folder above it
LAYOUTS = (  # what to expect, for error messages
    "annotations/instances_train2017.json with train2017/ or images/train2017/ (any year or none)",
    "annotations/train.json or train.json with train/, images/train/ or images/",
    "train/_annotations.coco.json or train/annotations.json with the images beside it",
    "annotations/instances_default.json with images/default/ (CVAT), result.json with images/ (Label Studio), "
    "labels.json with data/ (FiftyOne), train.json with train_images/ (Kaggle)",
)


def search_splits(
    folder: Path, elsewhere: Collection[str] = ()
) -> tuple[dict[str, tuple[Path, Path]], dict[str, dict[Path, list[Path]]]]:
    """Splits ("train", "val", "test" to annotation file and image folder), and those whose annotation files lack their
    image folder, with the places searched for it.

    elsewhere: splits whose pictures are named apart, so that they need no folder of their own.
    """
    splits: dict[str, tuple[Path, Path]] = {}
    incomplete: dict[str, dict[Path, list[Path]]] = {}
    for file, match in _named_files(folder):
        split = SPLIT_WORDS[match["word"].lower()]
        places = _image_folders(folder, match)
        place = next((place for place in places if place.is_dir()), None)
        if place is None and _holds_images(folder / "images"):  # one folder for all splits
            place = folder / "images"
        if place or split in elsewhere:
            splits.setdefault(split, (file, place or file.parent))
        else:
            incomplete.setdefault(split, {})[file] = places
    for word, split in SPLIT_WORDS.items():
        for file in (folder / word / name for name in _BESIDE):
            if file.is_file():
                splits.setdefault(split, (file, _pictures_of(file)))
    if not splits and not incomplete:
        whole = next((folder / name for name in _WHOLE if (folder / name).is_file()), None)
        if whole is not None:
            splits["train"] = whole, _pictures_of(whole)
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}, incomplete


def _named_files(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """Annotation files named after a split: COCO's instances first, later years first, test-dev before test."""
    files = [*folder.glob("annotations/*.json"), *folder.glob("*.json")]
    named = [(file, match) for file in files if (match := _STEM.fullmatch(file.stem))]

    def rank(entry: tuple[Path, re.Match[str]]) -> tuple:
        file, match = entry
        kind = (match["kind"] or "").lower().startswith("instances")
        return not kind, -int(match["year"] or 0), not match["dev"], str(file)

    return sorted(named, key=rank)


def _image_folders(root: Path, match: re.Match[str]) -> list[Path]:
    """Where the images of an annotation file with such a name may be: train2017, images/train2017, train …"""
    word, year = match["word"], match["year"] or ""
    spellings = [word, *(other for other, split in SPLIT_WORDS.items() if split == SPLIT_WORDS[word.lower()])]
    names = dict.fromkeys([word + year, *spellings])
    return [
        place
        for name in names
        for place in (root / name, root / "images" / name, root / f"{name}_images", root / f"{name}-images")
    ]


def _pictures_of(file: Path) -> Path:
    """Where the pictures of an annotation file are that no split names: the first place that holds any."""
    above = (file.parent, file.parent.parent) if file.parent.name == "annotations" else (file.parent,)
    places = [folder / name for folder in above for name in _PICTURES]
    return next((place for place in places if _holds_images(place)), file.parent)


def _holds_images(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(entry.name.lower().endswith(SUFFIXES) for entry in entries)


def describe_incomplete(incomplete: dict[Path, list[Path]]) -> str:
    """Which annotation files lack their images, and where those were looked for, as an error tells it."""
    return "; ".join(
        f"{file} has no image folder (none of {', '.join(place.as_posix() for place in places)})"
        for file, places in incomplete.items()
    )


def image_folder_of(file: Path, split: str) -> Path:
    """The image folder of an annotation file given directly: by its name, else beside it, else by the split."""
    roots = (file.parent, file.parent.parent)
    match = _STEM.fullmatch(file.stem)
    by_name = [place for root in roots for place in _image_folders(root, match)] if match else []
    for place in by_name:
        if place.is_dir():
            return place
    if _holds_images(file.parent):
        return file.parent
    others = [root / name for root in roots for name in (split, f"images/{split}", *_PICTURES, f"{split}_images")]
    for place in others:
        if place.is_dir():
            return place
    return file.parent  # file names may hold folders
