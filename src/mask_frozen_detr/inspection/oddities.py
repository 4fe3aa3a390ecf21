"""What is suspicious in data that can be used: each kind has turned up in real exports and costs AP without a word."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mask_frozen_detr.data.coco import Annotation, CocoData, ImageRecord
from mask_frozen_detr.data.images import stored_orientation
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.inspection.facts import Fault
from mask_frozen_detr.machine.checksums import hash_if_file

LOOKED_AT = 2000  # pictures whose headers are read
LOOSE = 0.7  # overlap of a box with the extent of its polygons: below, they do not fit
CORNER = 2.0  # pixels by which a corner may be off
CORNERS = "box whose width and height are its second corner"
TINY = 16.0  # pixels of area: less than a cell of most maps


def oddities(splits: dict[str, CocoData]) -> list[Fault]:
    """Suspicious things in the splits of a data set, most first."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, data in splits.items():
        for record in data.images:
            for kind, a in _odd_objects(record):
                where = f"{name}, {record.path.name}, {data.categories[a.category_id]} at {_shown(a.bbox)}"
                found[kind].append(where)
        for record in data.images[:LOOKED_AT]:
            if _tag(record.path) != 1:
                found["picture with an orientation tag"].append(f"{name}, {record.path.name}")
    if "train" in splits and "val" in splits:
        for train, val in _shared(splits["train"].images, splits["val"].images):
            found["picture in train and in val"].append(f"{train.name} and {val.name}")
    return sorted((Fault(kind, len(places), places[0]) for kind, places in found.items()), key=lambda one: -one.count)


def _odd_objects(record: ImageRecord) -> Iterator[tuple[str, Annotation]]:
    seen: set[tuple] = set()
    for a in record.annotations:
        key = a.category_id, *(round(side, 1) for side in a.bbox)
        if key in seen and not a.iscrowd:
            yield "object drawn twice (one class, one box)", a
        seen.add(key)
        if a.area < TINY and not a.iscrowd:
            yield f"object of less than {TINY:.0f} pixels", a
        if isinstance(a.segmentation, list):
            extent = _extent(a.segmentation)
            x, y, w, h = a.bbox
            if _overlap((x, y, x + w, y + h), extent) < LOOSE:
                corners = all(abs(one - other) <= CORNER for one, other in zip(a.bbox, extent, strict=True))
                yield CORNERS if corners else "box that does not fit its polygon", a


def _extent(polygons: Iterable[Iterable[float]]) -> tuple[float, float, float, float]:
    parts = [list(part) for part in polygons]
    xs = [value for part in parts for value in part[0::2]]
    ys = [value for part in parts for value in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inside = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return inside / (areas - inside) if areas > inside else 0.0


def _tag(path: Path) -> int:
    try:
        return stored_orientation(path)[0]
    except UserError:
        return 1  # training will say why it cannot be read


def _shared(train: list[ImageRecord], val: list[ImageRecord]) -> Iterator[tuple[Path, Path]]:
    """Pictures of one content on both sides, whatever their names: of equal sizes in bytes the content is compared."""
    of_size: dict[int, list[Path]] = defaultdict(list)
    for record in train:
        of_size[_bytes(record.path)].append(record.path)
    for record in val:
        mates = of_size.get(_bytes(record.path), []) if _bytes(record.path) else []
        if mates:
            mine = _hash(record.path)
            mate = next((path for path in mates if _hash(path) == mine), None)
            if mate is not None:
                yield mate, record.path


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def _hash(path: Path) -> str:
    return hash_if_file(path) or str(path)


def _shown(box: tuple[float, ...]) -> str:
    return ", ".join(f"{side:.0f}" for side in box)
