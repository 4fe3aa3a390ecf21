"""COCO's panoptic format: a json of segments, and a PNG a picture whose colours are the segments' numbers.

Segments of things are objects; stuff (sky, grass) has no instances and is left out.
"""

import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.coco import read_categories, read_images, take_field
from mask_frozen_detr.data.formats.coco_json import load_coco_json
from mask_frozen_detr.data.formats.coco_layout import image_folder_of
from mask_frozen_detr.data.formats.label_maps import colour_numbers, read_labels, run_lengths
from mask_frozen_detr.data.formats.layout import SPLIT_WORDS, SPLITS, Layout, Split
from mask_frozen_detr.data.picture_paths import find_pictures
from mask_frozen_detr.data.validation import whole
from mask_frozen_detr.errors import UserError, printable, reason

FORMAT = "COCO panoptic"
EXPECTED = ("panoptic_train2017.json with panoptic_train2017/ (PNG) and train2017/ (pictures)",)
STUFF = "segment of stuff, which has no instances, left out"


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """Json files whose name says panoptic and that have a folder of PNG files of their name beside them."""
    if path.is_file():
        if path.suffix.lower() != ".json" or not _is_panoptic(path):
            return None
        return Layout({split: Split(path, partial(_read, path, split)) for split in SPLITS}, single=True)
    files = sorted(file for file in (*path.glob("*.json"), *path.glob("annotations/*.json")) if _is_panoptic(file))
    splits: dict[str, Split] = {}
    for file in files:
        words = [split for word, split in SPLIT_WORDS.items() if word in file.stem.lower()]
        split = words[0] if words else "train"
        splits.setdefault(split, Split(file, partial(_read, file, split)))
    return Layout(splits) if splits else None


def _is_panoptic(file: Path) -> bool:
    return "panoptic" in file.stem.lower() and file.with_suffix("").is_dir()


def _read(file: Path, split_name: str, images: Path | None, orientation: Orientation) -> CocoData:
    data = load_coco_json(file)
    things = [
        entry for entry in data["categories"] if not isinstance(entry, dict) or entry.get("isthing", 1) in (1, True)
    ]
    split = Assembly(file, FORMAT, read_categories(things, file), orientation)
    all_classes = read_categories(data["categories"], file)
    pictures = read_images(data["images"], file, split.notes)
    plain = file.with_name(file.name.replace("panoptic_", "instances_"))  # whose pictures lie where COCO has them
    folder = images or image_folder_of(plain, split_name)
    names = {number: name for number, (name, _, _) in pictures.items()}
    paths = find_pictures(names, [folder, folder.parent, file.parent], split.notes)
    if not paths:
        raise UserError(f"{file}: none of its {len(names)} image files is in {folder}, expected them there")
    segments = _segments(data["annotations"], file)
    for number, (name, width, height) in pictures.items():
        where = f"{file.name}, image {number} ({name})"
        if number not in paths:
            split.skip(where, f"{MISSING_PICTURE}: not in {folder}")
            continue
        if number not in segments:
            split.skip(where, "picture without an entry in 'annotations', left out")
            continue
        png, infos = segments[number]
        masks = _masks(file.with_suffix("") / png, (width, height), where, split)
        if masks is None:
            continue
        split.add_picture(paths[number], (width, height), number)
        for place, info in enumerate(infos):
            _add(split, number, info, masks, all_classes, f"{where}, segment {place}")
    return split.finish()


def _segments(entries: list[Any], file: Path) -> dict[int, tuple[str, list[Any]]]:
    """Image id to the name of its PNG and its segments."""
    found = {}
    for place, entry in enumerate(entries):
        where = f"{file}, entry {place} of 'annotations'"
        found[take_field(entry, "image_id", int, where)] = (
            take_field(entry, "file_name", str, where),
            take_field(entry, "segments_info", list, where),
        )
    return found


def _masks(png: Path, size: tuple[int, int], where: str, split: Assembly) -> dict[int, dict] | None:
    """Segment number to run lengths; None, and the picture is skipped, where they cannot be had."""
    try:
        labels = read_labels(png)
    except (UserError, OSError) as error:
        split.skip(where, f"panoptic PNG cannot be read: {reason(error)}")
        return None
    if labels.shape[1::-1] != size:
        found = f"{labels.shape[1]} × {labels.shape[0]}, expected {size[0]} × {size[1]}"
        split.skip(where, f"mask of another size than the picture: {png.name} is {found}")
        return None
    return run_lengths(colour_numbers(labels) if labels.ndim == 3 else labels.astype(np.int64))


def _add(
    split: Assembly, picture: int, info: Any, masks: dict[int, dict], all_classes: dict[int, str], where: str
) -> None:
    if not isinstance(info, dict):
        split.skip(where, f"segment is not an object: {type(info).__name__}")
        return
    number, category = whole(info.get("id")), whole(info.get("category_id"))
    if category is None or category not in all_classes:
        split.skip(where, f"unknown category id: {printable(json.dumps(info.get('category_id')), 40)}")
    elif category not in split.categories:
        split.notes[STUFF] += 1
    elif number is None or number not in masks:
        split.skip(where, f"segment is not in its PNG: {printable(json.dumps(info.get('id')), 40)}")
    else:
        shape = {"segmentation": masks[number], "bbox": info.get("bbox"), "iscrowd": info.get("iscrowd")}
        split.add_object(picture, category, shape, where)
