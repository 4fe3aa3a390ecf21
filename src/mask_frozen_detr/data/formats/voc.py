"""Pascal VOC: a label map of the objects a picture (`SegmentationObject`), boxes and names in XML.

Also as CVAT ("Segmentation mask") and labelme's converter write it: without XML, colours instead of numbers, names in
`labelmap.txt` or `class_names.txt`. Pixels of the border around VOC's objects, 255, belong to none.
"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.label_maps import read_labels, run_lengths
from mask_frozen_detr.data.formats.layout import SPLITS, Layout, Split
from mask_frozen_detr.data.formats.voc_classes import BORDER, MOST_BYTES, ClassTable, read_class_table
from mask_frozen_detr.data.images import SUFFIXES
from mask_frozen_detr.data.picture_paths import PictureFinder
from mask_frozen_detr.errors import UserError, printable, reason

FORMAT = "Pascal VOC"
EXPECTED = (
    "JPEGImages/, SegmentationObject/ and Annotations/ or SegmentationClass/; ImageSets/Segmentation/train.txt and "
    "val.txt name the splits",
)
OBJECTS = ("SegmentationObject", "SegmentationObjectPNG")
CLASSES = ("SegmentationClass", "SegmentationClassPNG")
LISTS = {"train": ("train", "trainval", "default"), "val": ("val",), "test": ("test",)}
TOUCHING = 0.3  # overlap of a box in the XML with its mask's: below, they are of two objects
OTHER_SIZE = "mask of another size than the picture"


@dataclass(frozen=True)
class Named:
    """An <object> of an XML file. box: x, y, w, h in pixels, None where it has none."""

    name: str
    box: list[float] | None


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """Folders as VOC's or, within a VOCdevkit, the last year's."""
    if path.is_file():
        return None
    years = sorted((*path.glob("VOC2*"), *path.glob("VOCdevkit/VOC2*")), reverse=True)
    root = next((folder for folder in (path, *years) if _is_voc(folder)), None)
    if root is None:
        return None
    splits: dict[str, Split] = {}
    for kind in ("Segmentation", "Main"):
        for split in SPLITS:
            lists = [root / "ImageSets" / kind / f"{word}.txt" for word in LISTS[split]]
            listing = next((file for file in lists if file.is_file() and file.stat().st_size), None)
            if listing is not None:
                splits.setdefault(split, Split(listing, partial(_read, root, listing)))
        if splits:
            break
    return Layout(splits or {"train": Split(root, partial(_read, root, None))})


def _is_voc(folder: Path) -> bool:
    masks = any((folder / name).is_dir() for name in OBJECTS)
    return masks or ((folder / "JPEGImages").is_dir() and any((folder / "Annotations").glob("*.xml")))


def _read(root: Path, listing: Path | None, images: Path | None, orientation: Orientation) -> CocoData:
    named: dict[str, list[Named]] = {}
    broken: list[tuple[str, str]] = []
    for name in _names(root, listing):
        try:
            named[name] = read_objects(root / "Annotations" / f"{name}.xml")
        except UserError as error:
            named[name] = []
            broken.append((f"{name}.xml", f"XML file cannot be read: {reason(error)}"))
    table = read_class_table(root, {entry.name for entries in named.values() for entry in entries})
    split = Assembly(listing or root, FORMAT, table.categories, orientation)
    for where, why in broken:
        split.skip(where, why)
    folder = images or root / "JPEGImages"
    finder = PictureFinder([folder, root])
    for name, entries in named.items():
        path = _picture(name, finder, split)
        if path is None:
            split.skip(name, f"{MISSING_PICTURE}: no {name}.jpg in {folder}")
            continue
        size = split.measure(path)
        if size is not None:
            _add(split, split.add_picture(path, size), name, size, entries, root, table)
    return split.finish()


def _picture(name: str, finder: PictureFinder, split: Assembly) -> Path | None:
    for suffix in SUFFIXES:
        for spelling in (suffix, suffix.upper()):
            path = finder.find(name + spelling, split.notes)
            if path is not None:
                return path
    return None


def _names(root: Path, listing: Path | None) -> list[str]:
    """The pictures of a split, without suffixes; without a list all that have a mask or an XML file."""
    if listing is not None:
        try:
            lines = listing.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{listing}: cannot be read ({reason(error)})") from None
        # Lists of ImageSets/Main may say 1 or -1 behind a name; a name may hold a folder, but no place outside.
        names = dict.fromkeys(line.split()[0] for line in lines if line.strip())
        return [name for name in names if ".." not in Path(name).parts and not Path(name).is_absolute()]
    files = [*(root / "Annotations").glob("*.xml"), *(file for name in OBJECTS for file in (root / name).glob("*.png"))]
    return sorted({file.stem for file in files})


def read_objects(file: Path) -> list[Named]:
    """The objects of an XML file, none where it is not there. Raises UserError where it cannot be read."""
    if not os.path.isfile(file):  # a name from a list may be too long for any file
        return []
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"found {file.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
        entries = ElementTree.parse(file).getroot().findall("object")
        return [Named((entry.findtext("name") or "").strip(), _box(entry.find("bndbox"))) for entry in entries]
    except (
        ElementTree.ParseError,
        OSError,
        ValueError,
        LookupError,
        RecursionError,
    ) as error:  # LookupError: encodings
        raise UserError(reason(error)) from None


def _box(found: ElementTree.Element | None) -> list[float] | None:
    """VOC counts pixels from 1 and means the last pixel by its maximum."""
    if found is None:
        return None
    x0, y0, x1, y1 = (float(found.findtext(key) or "nan") for key in ("xmin", "ymin", "xmax", "ymax"))
    return [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]


def _add(
    split: Assembly,
    picture: int,
    name: str,
    size: tuple[int, int],
    named: list[Named],
    root: Path,
    table: ClassTable,
) -> None:
    number_of = {label: number for number, label in split.categories.items()}
    masks = _masks(split, name, size, root, table)
    for place, (rle, label) in masks.items():
        where = f"{name}, object {place}"
        mate = named[place - 1] if place <= len(named) else None
        if label is None and mate is not None:
            label = mate.name
        if label is None or label not in number_of:
            split.skip(where, f"object of no known class: {printable(str(label), 40)}")
            continue
        shape: dict[str, Any] = {"segmentation": rle}
        if mate is not None and mate.name == label and mate.box is not None and _touch(mate.box, rle):
            shape["bbox"] = mate.box
        split.add_object(picture, number_of[label], shape, where)
    for place, entry in enumerate(named, 1):
        if place not in masks and entry.name in number_of:
            split.add_object(picture, number_of[entry.name], {"bbox": entry.box}, f"{name}, object {place}")


def _masks(
    split: Assembly, name: str, size: tuple[int, int], root: Path, table: ClassTable
) -> dict[int, tuple[dict, str | None]]:
    """Object number to run lengths, and its class as the map of classes says, None where it does not."""
    object_map, class_map = _first(root, OBJECTS, name), _first(root, CLASSES, name)
    if object_map is None:
        return {}
    try:
        objects = table.object_numbers(read_labels(object_map))
        classes = None if class_map is None else table.class_numbers(read_labels(class_map))
    except UserError as error:
        split.skip(name, f"mask cannot be read: {reason(error)}")
        return {}
    for labels in (objects, classes):
        if labels is not None and labels.shape[::-1] != size:
            found = f"{labels.shape[1]} × {labels.shape[0]}, expected {size[0]} × {size[1]}"
            split.skip(name, f"{OTHER_SIZE}: {found}")
            return {}
    masks: dict[int, tuple[dict, str | None]] = {}
    for number, rle in run_lengths(objects).items():
        if number not in (0, BORDER):
            inside = None if classes is None else classes[objects == number]
            masks[number] = rle, None if inside is None else table.names.get(int(np.bincount(inside).argmax()))
    return masks


def _first(root: Path, folders: tuple[str, ...], name: str) -> Path | None:
    files = (root / folder / f"{name}.png" for folder in folders)
    return next((file for file in files if os.path.isfile(file)), None)


def _touch(box: list[float], rle: dict) -> bool:
    other = coco_mask.toBbox({"size": rle["size"], "counts": rle["counts"].encode()})
    return bool(coco_mask.iou([box], [other.tolist()], [0])[0, 0] >= TOUCHING)
