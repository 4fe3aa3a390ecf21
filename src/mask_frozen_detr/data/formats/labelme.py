"""LabelMe's format: a json a picture with its shapes. Shapes of one label and one group are one object.

Polygons, circles and masks say where an object is; rectangles are boxes of objects that nobody outlined. X-AnyLabeling
and ISAT's exports are the same.
"""

import base64
import io
import math
from collections import Counter
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.ellipses import ellipse
from mask_frozen_detr.data.formats.layout import HEAD, SPLIT_WORDS, Layout, Split
from mask_frozen_detr.data.images import SUFFIXES
from mask_frozen_detr.data.picture_paths import PictureFinder
from mask_frozen_detr.data.validation import Broken, are_finite, whole
from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.machine.regular_files import check_regular

FORMAT = "LabelMe"
EXPECTED = ("a.json with 'shapes' beside a.jpg, in the folder itself or in train/ and val/",)
NO_CLASSES = ("__ignore__", "_background_")  # labels that LabelMe's own converters leave out
MOST_BYTES = 400_000_000  # a picture may be embedded
LEFT_OUT = "shape that outlines nothing (a point or a line), left out"


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """Folders with LabelMe's json files: of splits, or the folder itself."""
    if path.is_file():
        if path.suffix.lower() == ".json" and _is_labelme(path):
            raise UserError(f"{path}: is one picture's {FORMAT} file; give the folder of all of them")
        return None
    splits: dict[str, Split] = {}
    for word, split in SPLIT_WORDS.items():
        for folder in (path / word, path / "annotations" / word, path / "labels" / word):
            if folder.is_dir() and _holds_labelme(folder):
                splits.setdefault(split, Split(folder, partial(_read, folder)))
    for folder in (path, path / "annotations", path / "labels"):
        if not splits and folder.is_dir() and _holds_labelme(folder):
            splits["train"] = Split(folder, partial(_read, folder))
    return Layout(splits) if splits else None


def _holds_labelme(folder: Path) -> bool:
    return any(_is_labelme(file) for file in sorted(folder.glob("[!.]*.json"))[:3])


def _is_labelme(file: Path) -> bool:
    """Whether a file is LabelMe's, by keys at its beginning or, where a picture is embedded, at its end."""
    try:
        check_regular(file)
        with open(file, "rb") as opened:
            head = opened.read(HEAD)
            opened.seek(max(0, file.stat().st_size - HEAD))
            ends = head + opened.read(HEAD)
    except (OSError, UserError):
        return False
    return b'"shapes"' in ends and b'"imagePath"' in ends


def _read(folder: Path, images: Path | None, orientation: Orientation) -> CocoData:
    notes: Counter[str] = Counter()
    bases = [base for base in (images, folder, folder / "images", folder.parent / "images", folder.parent) if base]
    finder = PictureFinder(bases)
    contents: list[tuple[Path, dict[str, Any]]] = []
    broken: list[tuple[str, str]] = []
    for file in sorted(folder.glob("[!.]*.json")):
        try:
            content = read_json_object(file, MOST_BYTES)
        except UserError as error:
            broken.append((file.name, f"json file cannot be read: {reason(error)}"))
            continue
        if isinstance(content.get("shapes"), list):
            contents.append((file, content))
        else:
            broken.append((file.name, f"json without a list 'shapes', not {FORMAT}'s"))
    split = Assembly(folder, FORMAT, _categories(folder, contents), orientation)
    split.notes = notes
    for fault in broken:
        split.skip(*fault)
    number_of = {name: number for number, name in split.categories.items()}
    for file, content in contents:
        path = _picture(file, content, finder, notes)
        if path is None:
            inside = ", it is embedded in the json: LabelMe saves it apart" if content.get("imageData") else ""
            named = printable(repr(content.get("imagePath")), 60)
            split.skip(file.name, f"{MISSING_PICTURE}: {named} is not beside it{inside}")
            continue
        width, height = whole(content.get("imageWidth")), whole(content.get("imageHeight"))
        size = (width, height) if width and height and min(width, height) > 0 else split.measure(path)
        if size is not None:
            _add(split, split.add_picture(path, size), size, content["shapes"], number_of, file.name)
    return split.finish()


def _picture(file: Path, content: dict[str, Any], finder: PictureFinder, notes: Counter[str]) -> Path | None:
    """The picture that the json names; else what lies beside the json under its own name."""
    name = content.get("imagePath")
    if isinstance(name, str) and name:
        found = finder.find(name, notes) or finder.find_by_base_name(name)
        if found is not None:
            return found
    beside = (file.with_suffix(suffix) for suffix in SUFFIXES)
    return next((path for path in beside if path.is_file()), None)


def _categories(folder: Path, contents: list[tuple[Path, dict[str, Any]]]) -> dict[int, str]:
    """Numbers from 1, in the order of a labels.txt where there is one, else of the alphabet."""
    found = {
        shape["label"]
        for _, content in contents
        for shape in content["shapes"]
        if isinstance(shape, dict) and isinstance(shape.get("label"), str)
    }
    listed: list[str] = []
    for file in (folder / "labels.txt", folder.parent / "labels.txt"):
        if not listed and file.is_file():
            try:
                listed = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{file}: cannot be read ({reason(error)})") from None
    names = [name for name in dict.fromkeys([*listed, *sorted(found)]) if name not in NO_CLASSES]
    return dict(enumerate(names, 1))


def _add(
    split: Assembly, picture: int, size: tuple[int, int], shapes: list[Any], number_of: dict[str, int], file: str
) -> None:
    groups: dict[Any, list[tuple[int, dict[str, Any]]]] = {}
    for place, shape in enumerate(shapes):
        where = f"{file}, shape {place}"
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
            split.skip(where, "shape without a label")
        elif shape["label"] in NO_CLASSES:
            split.notes[f"shape called {shape['label']}, left out"] += 1
        elif shape.get("shape_type", "polygon") in ("point", "points", "line", "linestrip"):
            split.notes[LEFT_OUT] += 1
        else:
            group = shape.get("group_id")
            key = (shape["label"], str(group)) if group is not None else place
            groups.setdefault(key, []).append((place, shape))
    for members in groups.values():
        where = f"{file}, shape {', '.join(str(place) for place, _ in members)}"
        try:
            outline = _object([shape for _, shape in members], size)
        except Broken as fault:
            split.skip(where, str(fault))
        else:
            split.add_object(picture, number_of[members[0][1]["label"]], outline, where)


def _object(shapes: list[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
    """The shapes of one object as COCO writes it: polygons, run lengths where one is a mask, a box of rectangles."""
    polygons: list[list[float]] = []
    masks: list[dict] = []
    corners: list[tuple[float, float]] = []
    for shape in shapes:
        kind, points = shape.get("shape_type", "polygon"), _points(shape)
        if kind == "rectangle" and len(points) >= 2:
            corners += points
        elif kind == "circle" and len(points) == 2:
            polygons.append(_circle(*points))
        elif kind == "mask":
            masks.append(_mask(shape, points, size))
        elif kind in ("polygon", "rotation"):
            polygons.append([value for point in points for value in point])
        else:
            raise Broken(f"shape of an unknown type: {printable(repr(kind), 40)} of {len(points)} points")
    found: dict[str, Any] = {}
    if corners:
        xs, ys = zip(*corners, strict=True)
        found["bbox"] = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    if masks:
        width, height = size
        drawn = coco_mask.frPyObjects(polygons, height, width) if polygons else []
        rle = coco_mask.merge([*masks, *drawn])
        found["segmentation"] = {"size": [height, width], "counts": rle["counts"].decode("ascii")}
    elif polygons:
        found["segmentation"] = polygons
    return found


def _points(shape: dict[str, Any]) -> list[tuple[float, float]]:
    points = shape.get("points")
    found = []
    for point in points if isinstance(points, list) else []:
        if not isinstance(point, list) or len(point) != 2 or not are_finite(point):
            raise Broken(f"point is not two numbers x, y: {printable(repr(point), 40)}")
        found.append((point[0], point[1]))
    if not found:
        raise Broken(f"shape without points: {printable(repr(points), 40)}")
    return found


def _circle(centre: tuple[float, float], edge: tuple[float, float]) -> list[float]:
    radius = math.dist(centre, edge)
    return ellipse(*centre, radius, radius)


def _mask(shape: dict[str, Any], points: list[tuple[float, float]], size: tuple[int, int]) -> dict:
    """A mask as run lengths: a PNG, in base64, of the pixels from its first corner to its second."""
    try:
        content = base64.b64decode(shape["mask"], validate=True)
        with Image.open(io.BytesIO(content)) as image:
            piece = np.asarray(image.convert("L")) > 0
    except Exception as error:  # whatever is no base64 or no PNG
        raise Broken(f"mask cannot be read: {reason(error)}") from None
    width, height = size
    x, y = (round(value) for value in points[0])
    if x < 0 or y < 0 or x + piece.shape[1] > width or y + piece.shape[0] > height:
        found = f"{piece.shape[1]} × {piece.shape[0]} at {x}, {y} in {width} × {height}"
        raise Broken(f"mask reaches out of the picture: {found}")
    whole_mask = np.zeros((height, width), np.uint8, order="F")
    whole_mask[y : y + piece.shape[0], x : x + piece.shape[1]] = piece
    return coco_mask.encode(whole_mask)
