"""The objects of a split as columns: a few arrays for all of them, and an `Annotation` made when one is asked for.

Lists of Python's numbers take nine times the memory of the coordinates themselves. And processes that load pictures
would each end with a copy of their own, since a look at a Python object writes its count of references; a look at an
array's element writes nothing.
Letters: N objects, P polygons, C coordinates.
"""

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, overload

import numpy as np

from mask_frozen_detr.data.validation import Annotation

NOTHING, POLYGONS, RUNS = range(3)  # kinds of masks


@dataclass(frozen=True)
class Shapes:
    """All masks of a data set. Polygon p is `coordinates[ends[p] : ends[p + 1]]`.

    coordinates: (C,) float64. ends: (P + 1,) int64, from 0. texts: compressed run lengths, one after another.
    """

    coordinates: np.ndarray
    ends: np.ndarray
    texts: bytes


@dataclass(frozen=True)
class AnnotationTable:
    """ids, categories (N,) int64, boxes (N, 4) float64 x, y, w, h, areas (N,) float64, crowds (N,) bool.

    kinds: (N,) uint8, of masks. first, count: (N,) int64, of polygons in `shapes.ends`, or of characters in its texts.
    """

    ids: np.ndarray
    categories: np.ndarray
    crowds: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    kinds: np.ndarray
    first: np.ndarray
    count: np.ndarray
    shapes: Shapes

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "AnnotationTable":
        """These rows, in this order, of the same masks."""
        columns = {name: column[rows] for name, column in vars(self).items() if name != "shapes"}
        return AnnotationTable(**columns, shapes=self.shapes)

    def annotation(self, row: int, size: list[int]) -> Annotation:
        """The annotation of a row. size: height and width of its picture, which run lengths are of."""
        kind, first, count = self.kinds[row], self.first[row], self.count[row]
        segmentation: list[list[float]] | dict[str, Any] | None = None
        if kind == POLYGONS:
            ends = self.shapes.ends[first : first + count + 1].tolist()
            numbers = self.shapes.coordinates[ends[0] : ends[-1]].tolist()
            segmentation = [numbers[start - ends[0] : end - ends[0]] for start, end in pairwise(ends)]
        elif kind == RUNS:
            segmentation = {"size": size, "counts": self.shapes.texts[first : first + count]}
        x, y, w, h = self.boxes[row].tolist()
        return Annotation(
            self.ids.item(row),
            self.categories.item(row),
            (x, y, w, h),
            segmentation,
            self.crowds.item(row),
            self.areas.item(row),
        )


class Annotations(Sequence[Annotation]):
    """The objects of one picture of height × width pixels: some rows of a table, one after another."""

    __slots__ = ("rows", "size", "table")

    def __init__(self, table: AnnotationTable, rows: range, size: tuple[int, int]):
        self.table, self.rows, self.size = table, rows, size

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Annotation: ...
    @overload
    def __getitem__(self, place: slice) -> "Annotations": ...
    def __getitem__(self, place: int | slice) -> "Annotation | Annotations":
        if isinstance(place, slice):
            return Annotations(self.table, self.rows[place], self.size)
        return self.table.annotation(self.rows[place], list(self.size))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return f"Annotations({list(self)})"


class TableBuilder:
    """Objects on their way into a table, in rows that are told apart by number."""

    def __init__(self) -> None:
        self.whole = array("q")  # id, category, crowd, kind, first and count, a row
        self.measures = array("d")  # x, y, w, h, area
        self.coordinates, self.ends, self.texts = array("d"), array("q", [0]), bytearray()

    def __len__(self) -> int:
        return len(self.measures) // 5

    def append(self, annotation: Annotation) -> None:
        self.append_empty()
        self.set(len(self) - 1, annotation)

    def append_empty(self) -> None:
        """A row for `set`."""
        self.whole.fromlist([0] * 6)
        self.measures.fromlist([0.0] * 5)

    def name(self, row: int, number: int, category: int) -> None:
        """Give a row its id and its category."""
        self.whole[6 * row], self.whole[6 * row + 1] = number, category

    @property
    def numbers(self) -> np.ndarray:
        """(N, 6) id, category, crowd, kind, first and count. While one looks at it, no row can be added."""
        return np.frombuffer(self.whole, np.int64).reshape(-1, 6)

    def append_polygons(
        self, number: int, category: int, crowd: int, box: list[Any], area: Any, parts: list[Any]
    ) -> bool:
        """What a file says of an object, unless something in it is no number: then nothing is changed.

        box: x, y, w, h. parts: polygons, as lists of numbers; whatever they are, they are not looked into.
        """
        first, rows, so_far = len(self.ends) - 1, len(self), len(self.coordinates)
        try:
            for part in parts:
                self.coordinates.fromlist(part)
                self.ends.append(len(self.coordinates))
            self.measures.fromlist([*box, area])
            self.whole.fromlist([number, category, crowd, POLYGONS, first, len(parts)])
        except (TypeError, OverflowError):
            del self.coordinates[so_far:], self.ends[first + 1 :], self.measures[5 * rows :]
            return False
        return True

    def set(self, row: int, annotation: Annotation) -> None:
        """Replaces what a row says. Masks are added to the others."""
        kind, first, count = NOTHING, 0, 0
        if isinstance(annotation.segmentation, dict):
            counts = annotation.segmentation["counts"]
            kind, first, count = RUNS, len(self.texts), len(counts)
            self.texts += counts
        elif annotation.segmentation is not None:
            kind, first, count = POLYGONS, len(self.ends) - 1, len(annotation.segmentation)
            for part in annotation.segmentation:
                self.coordinates.fromlist(list(part))
                self.ends.append(len(self.coordinates))
        numbers = [annotation.id, annotation.category_id, annotation.iscrowd, kind, first, count]
        self.whole[6 * row : 6 * row + 6] = array("q", numbers)
        self.measures[5 * row : 5 * row + 5] = array("d", [*annotation.bbox, annotation.area])

    def table(self) -> AnnotationTable:
        """All rows. The builder is done with: it cannot grow while arrays look into it."""
        whole, measures = self.numbers, np.frombuffer(self.measures).reshape(-1, 5)
        shapes = Shapes(np.frombuffer(self.coordinates), np.frombuffer(self.ends, np.int64), bytes(self.texts))
        return AnnotationTable(
            whole[:, 0].copy(),
            whole[:, 1].copy(),
            whole[:, 2] != 0,
            measures[:, :4].copy(),
            measures[:, 4].copy(),
            whole[:, 3].astype(np.uint8),
            whole[:, 4].copy(),
            whole[:, 5].copy(),
            shapes,
        )


def count_crowds(annotations: Sequence[Annotation]) -> int:
    """How many are crowds, without a look at each where they lie in a table."""
    if isinstance(annotations, Annotations):
        return int(np.count_nonzero(annotations.table.crowds[annotations.rows.start : annotations.rows.stop]))
    return sum(annotation.iscrowd for annotation in annotations)


def pack(pictures: Iterable[tuple[Sequence[Annotation], tuple[int, int]]]) -> list[Annotations]:
    """Objects of pictures of (height, width), all in one table; as they are where they lie in one already."""
    pictures = list(pictures)
    tables = {id(group.table) if isinstance(group, Annotations) else None for group, _ in pictures}
    if None not in tables and len(tables) == 1:
        return [group for group, _ in pictures if isinstance(group, Annotations)]
    builder = TableBuilder()
    for group, _ in pictures:
        for annotation in group:
            builder.append(annotation)
    return views(builder.table(), [(len(group), size) for group, size in pictures])


def views(table: AnnotationTable, pictures: Iterable[tuple[int, tuple[int, int]]]) -> list[Annotations]:
    """A table whose rows are sorted by picture, parted: of each the number of its objects, and (height, width)."""
    found, start = [], 0
    for count, size in pictures:
        found.append(Annotations(table, range(start, start + count), size))
        start += count
    return found


def recategorise(groups: list[Annotations], new_id: Mapping[int, int]) -> list[Annotations]:
    """Objects of one table with the ids of other categories; those whose category has none are left out."""
    if not groups:
        return []
    rows = np.concatenate([np.arange(group.rows.start, group.rows.stop) for group in groups])
    table = groups[0].table.take(rows)
    names, place = np.unique(table.categories, return_inverse=True)
    kept = np.array([name in new_id for name in names.tolist()], bool)[place]
    renumbered = np.array([new_id.get(name, 0) for name in names.tolist()], np.int64)[place]
    before = np.concatenate([[0], kept.cumsum()])
    ends = np.cumsum([len(group) for group in groups])
    counts = np.diff(before[ends], prepend=0).tolist()
    table = replace(table, categories=renumbered).take(np.flatnonzero(kept))
    return views(table, [(count, group.size) for count, group in zip(counts, groups, strict=True)])
