"""CVAT's own XML, "CVAT for images 1.1" and "CVAT for video 1.1": polygons, masks, boxes, ellipses, and tracks of them.

Shapes of one label and one group are one object. A turned box counts as the upright one around it.
"""

import math
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.ellipses import ellipse
from mask_frozen_detr.data.formats.layout import SPLIT_WORDS, SPLITS, Layout, Split
from mask_frozen_detr.data.images import SUFFIXES
from mask_frozen_detr.data.picture_paths import PictureFinder
from mask_frozen_detr.data.validation import Broken, stated_size, whole
from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.regular_files import read_regular

FORMAT = "CVAT"
EXPECTED = ("annotations.xml with images/, CVAT for images 1.1 or CVAT for video 1.1",)
NAMES = ("annotations.xml",)
MOST_BYTES = 400_000_000
SHAPES = ("polygon", "mask", "box", "ellipse")
NO_OUTLINES = ("polyline", "points", "cuboid", "skeleton")
LEFT_OUT = "shape that outlines no object (a line, points, a cuboid or a skeleton), left out"
TURNED = "turned box, taken as the upright one around it"


@dataclass
class _Picture:
    """A picture and its shapes. name: as the file has it, None for a frame of a film, which `frame` numbers."""

    name: str | None
    frame: int | None
    size: tuple[int, int] | None
    shapes: list[tuple[str, str, Element]] = field(default_factory=list)  # label, what messages call it, shape


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """An annotations.xml, whose subsets are splits where it has some; or one a split in its folder."""
    if path.is_file():
        if path.suffix.lower() != ".xml" or _subsets(path) is None:
            return None
        return Layout({split: Split(path, partial(_read, path, None)) for split in SPLITS}, single=True)
    for name in NAMES:
        subsets = _subsets(path / name)
        if subsets is not None:
            named = {SPLIT_WORDS[subset.lower()]: subset for subset in subsets if subset.lower() in SPLIT_WORDS}
            splits = {split: Split(path / name, partial(_read, path / name, subset)) for split, subset in named.items()}
            return Layout(splits or {"train": Split(path / name, partial(_read, path / name, None))})
    splits = {}
    for word, split in SPLIT_WORDS.items():
        file = path / word / NAMES[0]
        if _subsets(file) is not None:
            splits.setdefault(split, Split(file, partial(_read, file, None)))
    return Layout(splits) if splits else None


def _subsets(file: Path) -> set[str] | None:
    """Names of its subsets; None where it is none of CVAT's."""
    if not file.is_file():
        return None
    try:
        content = read_regular(file, MOST_BYTES)
    except (OSError, UserError):
        return None
    head = content[:4096]
    if b"<annotations" not in head or not (b"<meta>" in head or b"<image " in head or b"<track " in head):
        return None
    return {name.decode("utf-8", "replace") for name in re.findall(rb'<image [^>]*\bsubset="([^"]*)"', content)}


def _read(file: Path, subset: str | None, images: Path | None, orientation: Orientation) -> CocoData:
    try:
        root = ElementTree.fromstring(read_regular(file, MOST_BYTES))
    except (ElementTree.ParseError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read as XML ({reason(error)})") from None
    pictures = [*_pictures(root, subset), *_frames(root)]
    listed = [(entry.findtext("name") or "").strip() for entry in root.iterfind("meta//labels/label")]
    found = sorted({label for picture in pictures for label, _, _ in picture.shapes})
    names = [name for name in dict.fromkeys([*listed, *found]) if name]
    split = Assembly(file, FORMAT, dict(enumerate(names, 1)), orientation)
    number_of = {name: number for number, name in split.categories.items()}
    folders = [images] if images is not None else [file.parent / "images", file.parent]
    finder = PictureFinder(folders)
    for picture in pictures:
        path = _path(picture, finder, folders, split, subset)
        called = printable(picture.name or f"frame {picture.frame}", 80)
        if path is None:
            split.skip(f"{file.name}, {called}", f"{MISSING_PICTURE}: not in {folders[0]}")
            continue
        size = picture.size or split.measure(path)
        if size is None:
            continue
        number = split.add_picture(path, size)
        for label, where, shapes in _objects(picture.shapes, split):
            where = f"{file.name}, {called}, {where}"
            if label not in number_of:
                split.skip(where, "shape without a label")
                continue
            try:
                outline = _object(shapes, size, split)
            except Broken as fault:
                split.skip(where, str(fault))
            else:
                split.add_object(number, number_of[label], outline, where)
    return split.finish()


def _pictures(root: Element, subset: str | None) -> Iterator[_Picture]:
    for entry in root.iterfind("image"):
        if subset is None or entry.get("subset") == subset:
            picture = _Picture(entry.get("name") or "", None, stated_size(entry.get("width"), entry.get("height")))
            picture.shapes = [
                (shape.get("label", "").strip(), f"{shape.tag} {place}", shape)
                for place, shape in enumerate(entry)
                if shape.tag in (*SHAPES, *NO_OUTLINES)
            ]
            yield picture


def _frames(root: Element) -> Iterator[_Picture]:
    """Frames that tracks say something of; of others nobody knows whether there is nothing."""
    stated = root.find("meta//original_size")
    size = None if stated is None else stated_size(stated.findtext("width"), stated.findtext("height"))
    frames: dict[int, _Picture] = {}
    for place, track in enumerate(root.iterfind("track")):
        for shape in track:
            number = whole(shape.get("frame"))
            if number is None or shape.tag not in (*SHAPES, *NO_OUTLINES):
                continue
            frame = frames.setdefault(number, _Picture(None, number, size))
            if shape.get("outside") != "1":
                label = (track.get("label") or "").strip()
                frame.shapes.append((label, f"{shape.tag} of track {track.get('id', place)}", shape))
    yield from (frames[number] for number in sorted(frames))


def _path(
    picture: _Picture, finder: PictureFinder, folders: list[Path], split: Assembly, subset: str | None
) -> Path | None:
    if picture.name is None:
        names = [f"frame_{picture.frame:06d}{suffix}" for suffix in (*SUFFIXES, *(end.upper() for end in SUFFIXES))]
    else:
        names = [picture.name, *([f"{subset}/{picture.name}"] if subset else [])]
    found = (finder.find(name, split.notes) for name in names)
    path = next((path for path in found if path is not None), None)
    return path or (finder.find_by_base_name(picture.name) if picture.name else None)


def _objects(shapes: list[tuple[str, str, Element]], split: Assembly) -> Iterator[tuple[str, str, list[Element]]]:
    """Label, place for messages and shapes of each object."""
    groups: dict[Any, list[tuple[str, str, Element]]] = {}
    for place, (label, where, shape) in enumerate(shapes):
        if shape.tag in NO_OUTLINES:
            split.notes[LEFT_OUT] += 1
            continue
        group = shape.get("group_id", "0")
        alone = group in ("", "0") or shape.tag == "box"
        groups.setdefault(place if alone else (label, group), []).append((label, where, shape))
    for members in groups.values():
        yield members[0][0], " and ".join(where for _, where, _ in members), [shape for _, _, shape in members]


def _object(shapes: list[Element], size: tuple[int, int], split: Assembly) -> dict[str, Any]:
    """An object as COCO writes it: a box, polygons, or run lengths where one is a mask. Raises Broken."""
    if shapes[0].tag == "box":
        return {"bbox": _box(shapes[0], split)}
    width, height = size
    polygons = [_ellipse_of(one) if one.tag == "ellipse" else _points(one) for one in shapes if one.tag != "mask"]
    masks = [coco_mask.encode(np.asfortranarray(_mask(one, size))) for one in shapes if one.tag == "mask"]
    if not masks:
        return {"segmentation": polygons}
    drawn = coco_mask.frPyObjects(polygons, height, width) if polygons else []
    rle = coco_mask.merge([*masks, *drawn])
    return {"segmentation": {"size": [height, width], "counts": rle["counts"].decode("ascii")}}


def _box(shape: Element, split: Assembly) -> list[float]:
    x0, y0, x1, y1 = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    turn = _turn(shape)
    if turn:
        split.notes[TURNED] += 1
        cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
        x, y, w, h = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        w, h = w * cos + h * sin, w * sin + h * cos
        x0, y0, x1, y1 = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return [x0, y0, x1 - x0, y1 - y0]


def _points(shape: Element) -> list[float]:
    """x, y, x, y … of "x,y;x,y"."""
    text = shape.get("points", "")
    pairs = [pair.split(",") for pair in text.split(";") if pair.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise Broken(f"points are not x,y;x,y …: {printable(text, 40)}")
    return [_number(value) for pair in pairs for value in pair]


def _ellipse_of(shape: Element) -> list[float]:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return ellipse(x, y, rx, ry, _turn(shape))


def _turn(shape: Element) -> float:
    """How far a shape is turned, clockwise, in radians."""
    return math.radians(_numbers(shape, "rotation")[0]) if shape.get("rotation") else 0.0


def _mask(shape: Element, size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8 of run lengths along the rows of a piece of the picture: of 0, of 1, of 0 …"""
    width, height = size
    left, top, w, h = (whole(shape.get(key)) for key in ("left", "top", "width", "height"))
    try:
        runs = np.array([int(word) for word in shape.get("rle", "").split(",")], np.int64)
    except (ValueError, OverflowError):
        raise Broken(f"mask is no run lengths: {printable(shape.get('rle', ''), 40)}") from None
    if left is None or top is None or w is None or h is None or min(w, h) <= 0:
        raise Broken("mask without a place: left, top, width and height are not all whole numbers")
    if left < 0 or top < 0 or left + w > width or top + h > height:
        raise Broken(f"mask reaches out of the picture: {w} × {h} at {left}, {top} in {width} × {height}")
    if (runs < 0).any() or (runs > w * h).any() or runs.sum() != w * h:
        raise Broken(f"mask's run lengths do not add up: {runs.sum()}, expected {w * h} for {w} × {h}")
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + h, left : left + w] = np.repeat(np.arange(len(runs)) % 2, runs).reshape(h, w)
    return mask


def _numbers(shape: Element, *keys: str) -> list[float]:
    return [_number(shape.get(key)) for key in keys]


def _number(text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Broken(f"coordinates are no finite numbers: {printable(repr(text), 40)}")
    return value
