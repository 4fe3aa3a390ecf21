"""The entries of "annotations" of a COCO file, hundreds of thousands of them, as columns, and what is broken in them.

What has the usual form goes into arrays, and most of it is found good there at once. Every other entry is checked by
itself, as it stands in the file.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.data.annotation_table import POLYGONS, Annotations, TableBuilder, views
from mask_frozen_detr.data.coco import Skipped
from mask_frozen_detr.data.formats.coco_json import Again, Take
from mask_frozen_detr.data.plainly_good import plainly_good
from mask_frozen_detr.data.validation import Broken, check_annotation, whole
from mask_frozen_detr.errors import printable

LIMIT = 2**63  # of whole numbers
AT_ONCE = 50_000  # entries that are looked at together: some millions of coordinates


class Entries:
    """All entries in their order. builder: rows of those of the usual form, the others' rows are empty.

    images: the image id of each. places: by which each can be read again. odd: those of another form.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> Take:
        """Forgets what was taken; what it gives takes entries."""
        self.builder, self.images, self.places = TableBuilder(), array("q"), array("q")
        self.odd: dict[int, Any] = {}
        return self._take

    def __len__(self) -> int:
        return len(self.places)

    @property
    def classless(self) -> bool:
        """Whether there are entries, and none has a class."""
        plain = len(self.odd) == len(self.places) > 0
        return plain and all(type(raw) is dict and raw.get("category_id") is None for raw in self.odd.values())

    def give_class(self, category: int) -> None:
        """Gives it to entries without a class."""
        for raw in self.odd.values():
            raw["category_id"] = category

    def _take(self, raw: Any, place: int) -> None:
        if type(raw) is not dict or not self._take_usual(raw):
            self.odd[len(self.places)] = raw
            self.builder.append_empty()
            self.images.append(0)
        self.places.append(place)

    def _take_usual(self, raw: dict[str, Any]) -> bool:
        get: Callable[[str], Any] = raw.get
        image, category, number, crowd = get("image_id"), get("category_id"), get("id"), get("iscrowd")
        box, parts = get("bbox"), get("segmentation")
        usual = type(image) is type(category) is type(number) is type(crowd) is int and (crowd == 0 or crowd == 1)
        if not (usual and type(box) is list and len(box) == 4 and type(parts) is list and parts):
            return False
        if not (
            -LIMIT <= image < LIMIT and self.builder.append_polygons(number, category, crowd, box, get("area"), parts)
        ):
            return False
        self.images.append(image)
        return True


@dataclass(frozen=True)
class Checked:
    """What a file's annotations are worth, one by one.

    groups: the objects of each picture that is there. skipped: entries that are not used, in their order. lost: image
    ids of pictures that are not there, with the number of their entries. odd_ids: how many entries have an id of their
    own that is none; then all are numbered anew.
    """

    groups: list[Annotations]
    skipped: list[Skipped]
    lost: Counter[int]
    odd_ids: int


def check_entries(
    entries: Entries,
    again: Again,
    file: Path,
    images: Mapping[int, tuple[str, int, int]],
    categories: Mapping[int, str],
    present: Sequence[int],
    notes: Counter[str],
) -> Checked:
    """Every entry as `validation` has it. images: id to name, width, height. present: ids of pictures that are there.

    again: gives an entry as it stands in the file. notes: counts what was mended or is odd, but used.
    """
    faults: dict[int, tuple[Any, Broken]] = {}
    identified, image = _identify(entries, again, images, categories, faults)
    ids = entries.builder.numbers[:, 0].copy()
    valid = np.flatnonzero(identified & (ids > 0))  # 0 reads as "no match" in COCO's evaluation
    _, first = np.unique(ids[valid], return_index=True)
    own_id = np.zeros(len(ids), bool)
    own_id[valid[first]] = True
    ids[~own_id] = 0
    picture = _positions(np.array(list(images)), present)[image]
    used = identified & (picture >= 0)
    lost = np.bincount(image[identified & ~used], minlength=len(images)).tolist()
    good = _plainly_good(entries, used, np.array([size for _, *size in images.values()])[image])
    for row in np.flatnonzero(used & ~good).tolist():
        raw = entries.odd[row] if row in entries.odd else again(entries.places[row])
        raw["id"] = ids.item(row)
        try:
            entries.builder.set(row, check_annotation(raw, *images[raw["image_id"]][1:], notes))
            good[row] = True
        except Broken as fault:
            faults[row] = raw, fault
    rows = np.flatnonzero(good)
    rows = rows[np.argsort(picture[rows], kind="stable")]
    of_picture = np.bincount(picture[rows], minlength=len(present)).tolist()
    odd_ids = int(identified.sum()) - len(first)
    table = entries.builder.table().take(rows)
    table = replace(table, ids=np.arange(1, len(rows) + 1) if odd_ids else ids[rows])
    sizes = [(images[image_id][2], images[image_id][1]) for image_id in present]
    return Checked(
        views(table, zip(of_picture, sizes, strict=True)),
        [Skipped(_where(raw, row, images, file), str(fault)) for row, (raw, fault) in sorted(faults.items())],
        Counter(dict(zip(images, lost, strict=True))),
        odd_ids,
    )


def shown(value: Any) -> str:
    """A value of the file for a message: short, and nothing in it that a terminal would obey."""
    try:
        return printable(repr(value), 40)
    except ValueError:  # a number of too many digits
        return f"a {type(value).__name__}"


def _identify(
    entries: Entries, again: Again, images: Mapping, categories: Mapping, faults: dict[int, tuple[Any, Broken]]
) -> tuple[np.ndarray, np.ndarray]:
    """Which entries (N,) have an image and a category of the file, and the place (N,) of the image among all.

    Odd ones' ids are made whole numbers first.
    """
    odd = np.zeros(len(entries), bool)
    for row, raw in entries.odd.items():
        odd[row] = True
        try:
            entries.images[row] = _check_ids(raw, row, images, categories)
            entries.builder.name(row, whole(raw.get("id")) or 0, raw["category_id"])
            odd[row] = False
        except Broken as fault:
            faults[row] = raw, fault
    image = _positions(np.frombuffer(entries.images, np.int64), list(images))
    known = (image >= 0) & (_positions(entries.builder.numbers[:, 1], list(categories)) >= 0)
    for row in np.flatnonzero(~known & ~odd).tolist():
        raw = again(entries.places[row])
        try:
            _check_ids(raw, row, images, categories)
        except Broken as fault:
            faults[row] = raw, fault
    return known & ~odd, image


def _plainly_good(entries: Entries, used: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(N,) bool, of those that are used. sizes: (N, 2) width and height of the pictures."""
    numbers = entries.builder.numbers
    measures = np.frombuffer(entries.builder.measures).reshape(-1, 5)
    coordinates, ends = np.frombuffer(entries.builder.coordinates), np.frombuffer(entries.builder.ends, np.int64)
    good = np.zeros(len(used), bool)
    for part in _pieces(np.flatnonzero(used & (numbers[:, 3] == POLYGONS))):
        first, count = numbers[part, 4], numbers[part, 5]
        begin, end = first[0], first[-1] + count[-1]
        polygons = np.zeros(end - begin + 1, np.int64)  # those between, of entries that are not asked for, are left out
        polygons[first - begin] += 1
        polygons[first + count - begin] -= 1
        wanted = polygons.cumsum()[:-1] > 0
        lengths = np.diff(ends[begin : end + 1])
        numbers_here = coordinates[ends[begin] : ends[end]]
        if not wanted.all():
            numbers_here, lengths = numbers_here[np.repeat(wanted, lengths)], lengths[wanted]
        good[part] = plainly_good(measures[part, :4], measures[part, 4], sizes[part], count, lengths, numbers_here)
    return good


def _pieces(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def _positions(values: np.ndarray, known: Sequence[int]) -> np.ndarray:
    """Where in `known` each value is; -1 for those that are not there."""
    keys = np.array(known, np.int64)
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys[order], values), len(keys) - 1)
    return np.where(keys[order][place] == values, order[place], -1)


def _check_ids(raw: Any, index: int, images: Mapping, categories: Mapping) -> int:
    """The image's id. Raises Broken."""
    if type(raw) is not dict:
        raise Broken(f"annotation is not an object: entry {index} is a {type(raw).__name__}")
    for key in ("image_id", "category_id"):
        number = whole(raw.get(key))
        if number is None:
            raise Broken(f"{key} is missing or no whole number: {shown(raw.get(key))}")
        raw[key] = number
    if raw["image_id"] not in images:
        raise Broken(f"unknown image id: {raw['image_id']}")
    if raw["category_id"] not in categories:
        raise Broken(f"unknown category id: {raw['category_id']}, the file has {list(categories)[:90]}")
    return raw["image_id"]


def _where(raw: Any, index: int, images: Mapping, file: Path) -> str:
    if type(raw) is not dict or type(raw.get("id")) is not int:
        return f"{file.name}, entry {index} of 'annotations'"
    image = raw.get("image_id")
    known = f", {images[image][0]}" if type(image) is int and image in images else ""
    return f"{file.name}, annotation {raw['id']} (image {image}{known})"
