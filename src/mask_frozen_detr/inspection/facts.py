"""What there is in a split: objects by class and size, what is broken with its first place."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from mask_frozen_detr.data.coco import CocoData

SIZES = ("small", "medium", "large")  # COCO's: up to 32² pixels of area, up to 96², above


@dataclass(frozen=True)
class Fault:
    """Something of one kind. first: the first place, with what was found there."""

    kind: str
    count: int
    first: str


@dataclass(frozen=True)
class SplitFacts:
    """Counts of a split. classes: name to objects of each of `SIZES`, crowds and boxes without a mask among them."""

    name: str
    format: str
    place: str
    images: int
    bare: int  # images without objects
    objects: int
    crowds: int
    boxes_alone: int
    classes: dict[str, tuple[int, int, int]]
    faults: list[Fault]
    notes: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """All facts, as JSON holds them."""
        classes = {name: dict(zip(SIZES, counts, strict=True)) for name, counts in self.classes.items()}
        faults = [{"kind": fault.kind, "count": fault.count, "first": fault.first} for fault in self.faults]
        return {**vars(self), "classes": classes, "faults": faults}


def size_of(area: float) -> int:
    """The place among `SIZES`."""
    return 0 if area <= 32**2 else 1 if area <= 96**2 else 2


def facts_of(name: str, data: CocoData) -> SplitFacts:
    """Counts of a split, classes by their number of objects, most first."""
    counts = {category: [0, 0, 0] for category in data.categories}
    objects = crowds = boxes_alone = bare = 0
    for record in data.images:
        bare += not record.annotations
        for a in record.annotations:
            objects += 1
            crowds += a.iscrowd
            boxes_alone += a.segmentation is None
            counts[a.category_id][size_of(a.area)] += 1
    first: dict[str, str] = {}
    for skipped in data.skipped:
        kind, _, found = skipped.why.partition(":")
        first.setdefault(kind, f"{skipped.where}:{found}" if found else skipped.where)
    faults = [Fault(kind, count, first[kind]) for kind, count in data.left_out().most_common()]
    names: Counter[str] = Counter()
    by_name: dict[str, tuple[int, int, int]] = {}
    for category, sizes in sorted(counts.items(), key=lambda entry: -sum(entry[1])):
        label = data.categories[category]
        names[label] += 1
        shown = label if names[label] == 1 else f"{label} ({category})"
        by_name[shown] = (sizes[0], sizes[1], sizes[2])
    return SplitFacts(
        name,
        data.format,
        str(data.annotation_file),
        len(data.images),
        bare,
        objects,
        crowds,
        boxes_alone,
        by_name,
        faults,
        dict(data.notes),
    )
