"""What one COCO annotation must be: the checks that decide whether it is used or skipped, and with which reason.

Only cheap checks: no mask is drawn, a file of 860,000 annotations passes in seconds. Whether a mask is empty at
pixel level (a splinter between two pixel centres) shows when its crop is drawn.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul
from typing import Any

import numpy as np

Extent = tuple[float, float, float, float]  # x0, y0, x1, y1

CROSSING = "polygon crosses itself (its signed area is 0); filled by the even-odd rule, as COCO does"
NO_MASK = "object without a mask, a box alone"
BOX_COMPUTED = "box taken from the mask"
FAR = 10  # image sides beyond the image that coordinates may reach
PARTS_DROPPED = "part of an object dropped, the rest kept"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One object. bbox: x, y, w, h in pixels. area: pixels, as the file says, else of the segmentation."""

    id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    # polygons, or compressed RLE {"size": [h, w], "counts": bytes}; None: nobody drew a mask
    segmentation: list[list[float]] | dict | None
    iscrowd: bool
    area: float


class Broken(Exception):
    """Why an annotation is skipped: "kind of fault: what was found". Annotations are counted by kind."""


def check_annotation(raw: dict[str, Any], width: int, height: int, notes: Counter[str]) -> Annotation:
    """One entry of "annotations", whose id, image and category are known to be right, as an `Annotation`.

    Args:
        raw: the entry.
        width, height: of its image, pixels.
        notes: counts what was mended or is odd, but no reason to skip.

    Raises: Broken.
    """
    crowd = raw.get("iscrowd")
    if crowd not in (0, 1, None) and whole(crowd) not in (0, 1):
        raise Broken(f"iscrowd is neither 0 nor 1: {_show(crowd)}")
    crowd = crowd is not None and bool(int(crowd))
    segmentation, bbox = raw.get("segmentation"), raw.get("bbox")
    extent: Extent | None = None
    area = 0.0
    try:
        if not segmentation:
            raise Broken("no segmentation" if bbox else "no segmentation, and no bbox")
        if type(segmentation) is dict:
            segmentation, area = _check_rle(segmentation, width, height)
        elif type(segmentation) is list:
            segmentation, extent, area = _check_polygons(segmentation, width, height, notes)
        else:
            raise Broken(f"segmentation is neither polygons nor RLE: {_show(segmentation)}")
    except Broken as fault:
        if bbox is None or bbox == []:
            raise
        segmentation, extent = None, None
        box = _check_bbox(bbox, None, None, width, height)  # a good box is still true
        notes[f"{NO_MASK} ({str(fault).split(':')[0]})"] += 1
    else:
        if bbox is not None and not _is_box(bbox):
            notes[f"{BOX_COMPUTED}, the file's is none"] += 1
            bbox = None
        box = _check_bbox(bbox, segmentation, extent, width, height)
    stated_area: Any = raw.get("area")
    if are_finite([stated_area]) and stated_area > 0:
        area = float(stated_area)
    return Annotation(raw["id"], raw["category_id"], box, segmentation, crowd, area or box[2] * box[3])


def whole(value: Any) -> int | None:
    """A whole number however it is written, as 1, 1.0 or "1"; None for all else, and beyond 64 bits."""
    if type(value) is int:  # nearly always
        return value if -(2**63) <= value < 2**63 else None
    digits = type(value) is str and len(value) < 20 and value.isascii() and value.removeprefix("-").isdigit()
    if digits or (type(value) is float and value.is_integer()):
        return whole(int(value))
    return None


def stated_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height of a picture as a file states them; None where they are no whole numbers above 0."""
    w, h = whole(width), whole(height)
    return (w, h) if w and h and min(w, h) > 0 else None


def _is_box(bbox: Any) -> bool:
    return type(bbox) is list and len(bbox) == 4 and are_finite(bbox) and bbox[2] > 0 and bbox[3] > 0


def _check_bbox(bbox: Any, segmentation: Any, extent: Extent | None, width: int, height: int) -> Extent:
    if bbox is None:
        if extent is None:
            from pycocotools import mask as coco_mask  # only what reads annotations needs it

            x, y, w, h = map(float, coco_mask.toBbox(segmentation))
            return x, y, w, h
        x0, y0, x1, y1 = max(extent[0], 0), max(extent[1], 0), min(extent[2], width), min(extent[3], height)
        return x0, y0, x1 - x0, y1 - y0
    if type(bbox) is not list or len(bbox) != 4 or not are_finite(bbox):
        raise Broken(f"bbox is not four numbers x, y, w, h: {_show(bbox)}")
    x, y, w, h = bbox
    if w <= 0 or h <= 0:
        raise Broken(f"bbox without width or height: {bbox}")
    if _is_far((x, y, x + w, y + h), width, height):
        raise Broken(f"bbox reaches far beyond the image: {_show(bbox)} in {width} × {height}")
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise Broken(f"bbox lies outside the image: {bbox} in {width} × {height}")
    if extent and (x >= extent[2] or y >= extent[3] or x + w <= extent[0] or y + h <= extent[1]):
        raise Broken(f"bbox and polygon do not touch: {bbox}, polygon within {extent} (x0, y0, x1, y1)")
    return x, y, w, h


def _check_polygons(
    parts: list[Any], width: int, height: int, notes: Counter[str]
) -> tuple[list[list[float]], Extent, float]:
    """The polygons that have area inside the image, what they span, the sum of their areas."""
    if type(parts[0]) is not list:
        raise Broken("segmentation is a flat list: expected a list of polygons, each a list x, y, x, y …")
    kept, extents, area, fault = [], [], 0.0, ""
    for index, part in enumerate(parts):
        if type(part) is not list:
            raise Broken(f"polygon is not a list of numbers: part {index} is {_show(part)}")
        if not are_finite(part):
            raise Broken(f"polygon holds something that is no finite number: part {index} is {_show(part)}")
        if len(part) % 2:
            raise Broken(f"polygon with an odd count of numbers: part {index} has {len(part)}")
        if len(part) < 6:
            fault = f"polygon with fewer than 3 points: part {index} has {len(part) // 2}"
            continue
        xs, ys = part[0::2], part[1::2]
        x0, y0, x1, y1 = extent = min(xs), min(ys), max(xs), max(ys)
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            fault = f"polygon lies outside the image: part {index} within {extent} (x0, y0, x1, y1)"
            continue
        if _is_far(extent, width, height):
            fault = f"polygon reaches far beyond the image: part {index} within {extent} (x0, y0, x1, y1)"
            continue
        doubled = _doubled_area(xs, ys)
        if abs(doubled) <= 1e-6 * max(1.0, (x1 - x0) * (y1 - y0)):
            if _on_a_line(xs, ys):
                fault = f"polygon without area: part {index}"
                continue
            notes[CROSSING] += 1
        area += abs(doubled) / 2
        kept.append(part)
        extents.append(extent)
    if not kept:
        raise Broken(fault)
    if len(kept) < len(parts):
        notes[f"{PARTS_DROPPED} ({fault.split(':')[0]})"] += 1
    if len(extents) > 1:
        x0s, y0s, x1s, y1s = zip(*extents, strict=True)
        extents = [(min(x0s), min(y0s), max(x1s), max(y1s))]
    return (kept if len(kept) < len(parts) else parts), extents[0], area


def _is_far(extent: Extent, width: int, height: int) -> bool:
    """Whether drawing it could take memory and time without bound."""
    x0, y0, x1, y1 = extent
    beyond_x, beyond_y = FAR * width, FAR * height
    return x0 < -beyond_x or y0 < -beyond_y or x1 > width + beyond_x or y1 > height + beyond_y


def _doubled_area(xs: list[float], ys: list[float]) -> float:
    """Twice the signed area (shoelace formula)."""
    return sum(map(mul, xs, ys[1:])) - sum(map(mul, ys, xs[1:])) + xs[-1] * ys[0] - ys[-1] * xs[0]


def _on_a_line(xs: list[float], ys: list[float]) -> bool:
    points = np.array([xs, ys], dtype=np.float64)
    points -= points[:, :1]
    far = points[:, np.abs(points).sum(0).argmax()]
    distance = np.abs(far[0] * points[1] - far[1] * points[0])  # from the line, times |far|
    return bool((distance <= 1e-6 * max(1.0, float(far @ far) ** 0.5)).all())


def _check_rle(rle: dict[str, Any], width: int, height: int) -> tuple[dict[str, Any], float]:
    """Run lengths in their compressed form, and their area."""
    compressed, area = check_runs(rle, width, height)
    if not area:
        raise Broken("RLE of an empty mask")
    return compressed, float(area)


def check_runs(rle: dict[str, Any], width: int, height: int) -> tuple[dict[str, Any], int]:
    """COCO's run lengths of an image in their compressed form, and the pixels of the mask.

    Raises: Broken.
    """
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        swapped = " (height and width swapped?)" if size == [width, height] else ""
        raise Broken(f"RLE of another size than the image: {_show(size)}, expected {[height, width]}{swapped}")
    if width * height > 2**32 - 1:
        raise Broken(f"RLE of more pixels than COCO's run lengths can count: {width} × {height}")
    if type(counts) is str:
        compressed = counts.encode("ascii", "replace")
        runs: Sequence[int] = decode_counts(compressed).tolist()
    elif type(counts) is list:
        if not set(map(type, counts)) <= {int} or (counts and min(counts) < 0):
            raise Broken("RLE counts cannot be decoded: expected whole numbers, none negative")
        runs = counts
    else:
        raise Broken(f"RLE counts cannot be decoded: {_show(counts)}")
    if sum(runs) != width * height:
        raise Broken(f"RLE counts do not add up to the image: {sum(runs)}, expected {width * height}")
    if type(counts) is list:
        from pycocotools import mask as coco_mask

        compressed = coco_mask.frPyObjects({"size": size, "counts": counts}, height, width)["counts"]
    return {"size": size, "counts": compressed}, sum(runs[1::2])


def decode_counts(text: bytes) -> np.ndarray:
    """The run lengths in COCO's compressed RLE: (N,) int64.

    Each number is written five bits a character, lowest first, bit 5 set where another character follows, bit 4 of
    the last its sign; from the fourth number on only the difference to the last but one is written.

    Raises: Broken.
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        raise Broken(f"RLE counts cannot be decoded: {_show(text)}")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise Broken(f"RLE counts cannot be decoded: {_show(text)}")
    position = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << (5 * position), starts)
    runs -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise Broken("RLE counts cannot be decoded: a run is negative")
    return runs


def are_finite(values: list[Any]) -> bool:
    """Whether all are finite numbers, however large the ints of JSON are.

    One sum tells: text, None and lists cannot be added, and NaN stays. It is one of floats, or 10⁴⁰⁰ and its negative
    would be 0.
    """
    try:
        return math.isfinite(math.fsum(values))
    except (TypeError, OverflowError, ValueError):
        return False


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"
