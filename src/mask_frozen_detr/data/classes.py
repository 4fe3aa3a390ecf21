"""Which class index of the detector stands for which category of the data: by name, or where it has none, by id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.errors import UserError

# Spellings of COCO's names in published checkpoints (Pascal VOC's, run together) → COCO's own.
ALIASES = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "tv monitor": "tv",
    "hair dryer": "hair drier",
}


@dataclass(frozen=True)
class ClassMap:
    """category_of: class index → category id; index_of: its inverse. What found no partner is listed by name."""

    category_of: dict[int, int]
    index_of: dict[int, int]
    unmatched_categories: list[str]
    unmatched_classes: list[str]
    by: str  # "name", "category id" or "order"

    def summary(self) -> str:
        lines = [f"{len(self.index_of)} classes of detector and data match by {self.by}."]
        if self.unmatched_categories:
            lines.append(f"Only in the data, left out of training and scores: {_some(self.unmatched_categories)}.")
        if self.unmatched_classes:
            lines.append(f"Only in the detector, not scored: {_some(self.unmatched_classes)}.")
        return " ".join(lines)


def map_classes(class_names: Sequence[str], categories: Mapping[int, str]) -> ClassMap:
    """Match the detector's class names ("" where it has none) with the data's categories (id → name).

    By name, whatever the case, spaces and hyphens; of two categories of one name the first. For a detector without
    any name: by id, if every category id is a class index; else by order, if there are as many classes as categories.
    Raises UserError where none of the three matches anything.
    """
    by_name: dict[str, int] = {}
    for place, name in enumerate(class_names):
        if name:
            by_name.setdefault(_normalise(name), place)
    index_of: dict[int, int] = {}
    for category, name in categories.items():
        index = by_name.get(_normalise(name))
        if index is not None and index not in index_of.values():
            index_of[category] = index
    by = "name"
    if not any(class_names):
        if all(0 <= category < len(class_names) for category in categories):
            index_of, by = {category: category for category in categories}, "category id"
        elif len(class_names) == len(categories):
            index_of, by = {category: index for index, category in enumerate(sorted(categories))}, "order"
    if not index_of:
        raise UserError(
            f"no category of the data is a class of the detector: found {_some(list(categories.values()))}, "
            f"expected some of {_some([name for name in class_names if name]) or f'{len(class_names)} unnamed classes'}"
        )
    used = set(index_of.values())
    return ClassMap(
        category_of={index: category for category, index in index_of.items()},
        index_of=index_of,
        unmatched_categories=[name for category, name in categories.items() if category not in index_of],
        unmatched_classes=[name for index, name in enumerate(class_names) if name and index not in used],
        by=by,
    )


def classes_of(data: CocoData, class_names: Sequence[str]) -> ClassMap:
    """`map_classes` for a data set. Raises UserError that names its file."""
    try:
        return map_classes(class_names, data.categories)
    except UserError as error:
        raise UserError(f"{data.annotation_file}: {error}") from None


def _normalise(name: str) -> str:
    plain = " ".join(name.lower().replace("-", " ").replace("_", " ").split())
    return ALIASES.get(plain, plain)


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
