"""Label Studio's own json, the export of a project: tasks with polygons, rectangles, ellipses and brush masks.

Coordinates are percent of the picture's sides. Of a task the newest annotation counts that was not cancelled; where
nobody annotated, its predictions do.
"""

import math
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.ellipses import ellipse
from mask_frozen_detr.data.formats.label_maps import run_lengths
from mask_frozen_detr.data.formats.label_studio_brush import decode_brush
from mask_frozen_detr.data.formats.layout import Layout, find_exports, read_head
from mask_frozen_detr.data.picture_paths import PictureFinder
from mask_frozen_detr.data.validation import Broken, are_finite, stated_size
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.json_files import read_json

FORMAT = "Label Studio"
EXPECTED = (
    "project-….json or result.json of a project, in Label Studio's own format (JSON), with the pictures beside it "
    "or in images/",
)
MOST_BYTES = 400_000_000
ROUNDED = 1.0  # percent by which tools' rounding may lead out of the picture
PREDICTED = "picture that nobody annotated, its predictions used"
UNSEEN = "picture that nobody annotated, left out"
LEFT_OUT = "region that outlines no object, left out"


@dataclass(frozen=True)
class _Region:
    """What a task outlines. value: as the file has it. label: its class. place: among the results of the task."""

    value: dict[str, Any]
    kind: str
    label: str
    place: int
    size: tuple[Any, Any]


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """Json files whose beginning is a list of tasks, one a split or one in all."""
    return find_exports(path, FORMAT, "*.json", _is_export, _read)


def _is_export(file: Path) -> bool:
    """Whether a file is an export: its tasks have "data" and "annotations", or "completions" as in old versions."""
    head = read_head(file).removeprefix(b"\xef\xbb\xbf").lstrip()
    listed = any(key in head for key in (b'"annotations"', b'"completions"', b'"predictions"'))
    return head.startswith(b"[") and listed and (b'"data"' in head or b'"to_name"' in head)


def _read(file: Path, images: Path | None, orientation: Orientation) -> CocoData:
    content = read_json(file, MOST_BYTES)
    if not isinstance(content, list):
        raise UserError(f"{file}: holds JSON of type {type(content).__name__}, expected a list of tasks")
    tasks = [task for task in content if isinstance(task, dict)]
    found_in = [_regions(task) for task in tasks]
    names = sorted({region.label for regions, _, _ in found_in for region in regions})
    split = Assembly(file, FORMAT, dict(enumerate(names, 1)), orientation)
    if len(tasks) < len(content):
        split.skip(file.name, f"task is not an object: {len(content) - len(tasks)} of {len(content)}")
    number_of = {name: number for number, name in split.categories.items()}
    folders = [images] if images is not None else [file.parent / "images", file.parent, file.parent.parent]
    finder = PictureFinder(folders)
    for place, (task, (regions, predicted, left_out)) in enumerate(zip(tasks, found_in, strict=True)):
        where = f"{file.name}, task {printable(str(task.get('id', place)), 20)}"
        address = _address(task)
        if address is None:
            split.skip(where, "task without a picture in its 'data'")
            continue
        path = next((found for name in _names(address) if (found := finder.find(name, split.notes))), None)
        path = path or finder.find_by_base_name(_names(address)[-1])
        if path is None:
            split.skip(where, f"{MISSING_PICTURE}: {printable(address, 80)}, not in {folders[0]}")
            continue
        if not _made(task) and not _dicts(task.get("predictions")):
            split.notes[UNSEEN] += 1
            continue
        size = _size(regions) or split.measure(path)
        if size is None:
            continue
        if predicted:
            split.notes[PREDICTED] += 1
        if left_out:
            split.notes[LEFT_OUT] += left_out
        picture = split.add_picture(path, size)
        for region in regions:
            try:
                shape = _shape(region, size)
            except Broken as fault:
                split.skip(f"{where}, region {region.place}", str(fault))
            else:
                split.add_object(picture, number_of[region.label], shape, f"{where}, region {region.place}")
    return split.finish()


def _address(task: dict[str, Any]) -> str | None:
    """Where its picture is: the value of `image`, or of whichever key holds a path."""
    data = task.get("data")
    values = data if isinstance(data, dict) else {}
    keys = [key for key in ("image", "img", "picture", "photo") if isinstance(values.get(key), str)]
    keys += [key for key, value in values.items() if isinstance(value, str) and "/" in value]
    return values[keys[0]] if keys else None


def _names(address: str) -> list[str]:
    """Names to look for: of a local file the path in it; last without the 8 signs that an upload put before."""
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    path = local[0] if local else unquote(parts.path) if parts.scheme or address.startswith("/") else address
    path = path.lstrip("/")
    last = path.replace("\\", "/").rsplit("/", 1)[-1]
    code, dash, rest = last.partition("-")
    uploaded = len(code) == 8 and dash and all(sign in "0123456789abcdef" for sign in code)
    return [path, last, *([rest] if uploaded and rest else [])]


def _regions(task: dict[str, Any]) -> tuple[list[_Region], bool, int]:
    """The regions of a task; whether they are predictions, not drawn; how many of its results outline nothing."""
    made = _made(task)
    predicted = not made
    newest = max(made, key=lambda one: str(one.get("updated_at") or one.get("created_at") or ""), default=None)
    if newest is None:
        newest = next(reversed(_dicts(task.get("predictions"))), {})
    results = _dicts(newest.get("result"))
    by_id: dict[Any, list[str]] = defaultdict(list)  # of <Labels> beside <Polygon>: names apart from their shape
    for result in results:
        if result.get("type") in ("labels", "choices") and "points" not in _value(result):
            by_id[str(result.get("id"))] += _labels(result)
    regions, left_out = [], 0
    for place, result in enumerate(results):
        kind = _kind(result)
        labels = _labels(result) or by_id[str(result.get("id"))]
        if kind is None:
            left_out += str(result.get("type")) not in ("labels", "choices", "textarea", "relation")
        elif not labels:
            left_out += 1
        else:
            size = result.get("original_width"), result.get("original_height")
            regions.append(_Region(_value(result), kind, labels[0], place, size))
    return regions, predicted, left_out


def _made(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotations of a task that were not cancelled."""
    made = [one for key in ("annotations", "completions") for one in _dicts(task.get(key))]
    return [one for one in made if not one.get("was_cancelled")]


def _kind(result: dict[str, Any]) -> str | None:
    value = _value(result)
    if "rle" in value:
        return "brush"
    if "radiusX" in value:
        return "ellipse"
    if "points" in value and str(result.get("type")).startswith("polygon"):
        return "polygon"
    return "box" if {"x", "y", "width", "height"} <= value.keys() else None


def _labels(result: dict[str, Any]) -> list[str]:
    value = _value(result)
    found = value.get(str(result.get("type")), value.get("labels"))
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _value(result: dict[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _dicts(entries: Any) -> list[dict[str, Any]]:
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _size(regions: list[_Region]) -> tuple[int, int] | None:
    """Width and height as the annotators saw the picture, where a region says so."""
    return next((size for region in regions if (size := stated_size(*region.size))), None)


def _shape(region: _Region, size: tuple[int, int]) -> dict[str, Any]:
    """A region as COCO writes it, in pixels. Raises Broken."""
    width, height = size
    if region.kind == "brush":
        mask = decode_brush(region.value["rle"], width, height)
        return {"segmentation": run_lengths(mask.astype(np.int64)).get(1)}
    if region.kind == "polygon":
        points = region.value["points"]
        pairs = points if isinstance(points, list) and points else [None]
        return {"segmentation": [[value for point in pairs for value in _pixels(point, size)]]}
    keys = ("x", "y", "radiusX", "radiusY") if region.kind == "ellipse" else ("x", "y", "width", "height")
    left, top, across, down = _numbers([region.value.get(key) for key in keys])
    x, y, w, h = left * width / 100, top * height / 100, across * width / 100, down * height / 100
    turn = math.radians(_numbers([region.value.get("rotation") or 0])[0])
    if region.kind == "ellipse":
        return {"segmentation": [ellipse(x, y, w, h, turn)]}
    if not turn:
        _check_percent([left, top, left + across, top + down])
        return {"bbox": [x, y, w, h]}
    # A turned box is no mask: the upright one around it.
    cos, sin = math.cos(turn), math.sin(turn)
    corners = [(0.0, 0.0), (w, 0.0), (w, h), (0.0, h)]
    xs = [x + right * cos - low * sin for right, low in corners]
    ys = [y + right * sin + low * cos for right, low in corners]
    return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]}


def _pixels(point: Any, size: tuple[int, int]) -> tuple[float, float]:
    if not isinstance(point, list) or len(point) != 2:
        raise Broken(f"point is not two numbers x, y: {printable(repr(point), 40)}")
    x, y = _numbers(point)
    _check_percent([x, y])
    return x * size[0] / 100, y * size[1] / 100


def _check_percent(values: list[float]) -> None:
    beyond = [value for value in values if not -ROUNDED <= value <= 100 + ROUNDED]
    if beyond:
        raise Broken(f"coordinates outside 0 … 100 percent: {beyond[0]:g}; are these pixels?")


def _numbers(values: list[Any]) -> list[float]:
    if not (all(type(value) in (int, float) for value in values) and are_finite(values)):
        raise Broken(f"coordinates are no finite numbers: {printable(repr(values), 60)}")
    return [float(value) for value in values]
