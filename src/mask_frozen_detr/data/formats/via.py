"""The VGG Image Annotator's own json, project or export: regions with shapes, classes in their attributes."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.ellipses import ellipse
from mask_frozen_detr.data.formats.layout import Layout, find_exports, read_head
from mask_frozen_detr.data.picture_paths import find_pictures
from mask_frozen_detr.data.validation import Broken, are_finite
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.json_files import read_json_object

FORMAT = "VIA"
EXPECTED = ("train/via_region_data.json with the pictures beside it, or a json of the name via_….json",)
NAMES = ("class", "label", "name", "category", "type", "object")  # attributes that are taken for the class, in order
ONE_CLASS = "object"  # of regions without attributes
MOST_BYTES = 400_000_000
LEFT_OUT = "region that outlines nothing (a point or a line), left out"


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """Json files of VIA's names and content, a split each or one in all."""
    return find_exports(path, FORMAT, "via*.json", _is_via, _read)


def _is_via(file: Path) -> bool:
    """Whether a file is VIA's, by keys at its beginning: VIA's COCO export, of the same name, has others."""
    head = read_head(file)
    return b'"_via_' in head or b'"regions"' in head


def _read(file: Path, images: Path | None, orientation: Orientation) -> CocoData:
    content = read_json_object(file, MOST_BYTES)
    entries = content.get("_via_img_metadata", content)
    if not isinstance(entries, dict):
        raise UserError(f"{file}: '_via_img_metadata' is a {type(entries).__name__}, expected an object")
    pictures = [
        entry for entry in entries.values() if isinstance(entry, dict) and isinstance(entry.get("filename"), str)
    ]
    regions = {place: _regions(entry) for place, entry in enumerate(pictures)}
    key = _class_key(regions)
    names = {name for found in regions.values() for region in found if (name := _class_of(region, key))}
    split = Assembly(file, FORMAT, dict(enumerate(sorted(names), 1)), orientation)
    number_of = {name: number for number, name in split.categories.items()}
    folders = [images] if images is not None else [file.parent, file.parent / "images"]
    paths = find_pictures({place: entry["filename"] for place, entry in enumerate(pictures)}, folders, split.notes)
    for place, entry in enumerate(pictures):
        name = printable(entry["filename"], 80)
        if place not in paths:
            split.skip(f"{file.name}, {name}", f"{MISSING_PICTURE}: not in {folders[0]}")
            continue
        size = split.measure(paths[place])
        if size is None:
            continue
        picture = split.add_picture(paths[place], size)
        for number, region in enumerate(regions[place]):
            where = f"{file.name}, {name}, region {number}"
            label = _class_of(region, key)
            try:
                shape = _shape(region.get("shape_attributes"))
                if label not in number_of:
                    raise Broken(f"region without a class: its attribute '{key}' is empty")
            except Broken as fault:
                split.skip(where, str(fault))
                continue
            if shape is None:
                split.notes[LEFT_OUT] += 1
            else:
                split.add_object(picture, number_of[label], shape, where)
    return split.finish()


def _regions(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """VIA 1 wrote an object of them, VIA 2 a list."""
    regions = entry.get("regions")
    found = list(regions.values()) if isinstance(regions, dict) else regions if isinstance(regions, list) else []
    return [region for region in found if isinstance(region, dict)]


def _class_key(regions: dict[int, list[dict[str, Any]]]) -> str | None:
    """The attribute that holds the class: one of the usual names, else the one that most regions have."""
    counts: Counter[str] = Counter()
    for found in regions.values():
        for region in found:
            attributes = region.get("region_attributes")
            counts.update(list(attributes) if isinstance(attributes, dict) else [])
    usual = [key for name in NAMES for key in counts if key.lower() == name]
    return usual[0] if usual else next((key for key, _ in counts.most_common(1)), None)


def _class_of(region: dict[str, Any], key: str | None) -> str | None:
    if key is None:
        return ONE_CLASS
    attributes = region.get("region_attributes")
    value = attributes.get(key) if isinstance(attributes, dict) else None
    if isinstance(value, dict):  # a checkbox: {"cat": true}
        value = next((name for name, ticked in value.items() if ticked), None)
    return str(value).strip() if isinstance(value, str | int) else None


def _shape(shape: Any) -> dict[str, Any] | None:
    """A region as COCO writes it; None for what outlines nothing."""
    if not isinstance(shape, dict):
        raise Broken(f"region without a shape: {printable(repr(shape), 40)}")
    kind = shape.get("name")
    if kind in ("point", "polyline"):
        return None
    if kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
            raise Broken("polygon whose x and y are not two lists of one length")
        return {"segmentation": [[value for point in zip(xs, ys, strict=True) for value in point]]}
    if kind == "rect":
        return {"bbox": _numbers(shape, "x", "y", "width", "height")}
    if kind in ("circle", "ellipse"):
        radii = ("r", "r") if kind == "circle" else ("rx", "ry")
        x, y, rx, ry = _numbers(shape, "cx", "cy", *radii)
        theta = _numbers(shape, "theta")[0] if "theta" in shape else 0.0
        return {"segmentation": [ellipse(x, y, rx, ry, theta)]}
    raise Broken(f"shape of an unknown type: {printable(repr(kind), 40)}")


def _numbers(shape: dict[str, Any], *keys: str) -> list[float]:
    values = [shape.get(key) for key in keys]
    if not are_finite(values):
        raise Broken(f"{', '.join(keys)} are no finite numbers: {printable(repr(values), 60)}")
    return [float(value) for value in values if value is not None]
