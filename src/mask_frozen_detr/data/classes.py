"""Which class index of the detector stands for which category of the data: by name, or by id where names are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
            lines.append(f"Only in the data, left out: {_some(self.unmatched_categories)}.")
        if self.unmatched_classes:
            lines.append(f"Only in the detector, not scored: {_some(self.unmatched_classes)}.")
        return " ".join(lines)


def map_classes(class_names: Sequence[str], categories: Mapping[int, str]) -> ClassMap:
    """Match the detector's class names ("" where it has none) with the data's categories (id → name).

    By name, whatever the case, spaces and hyphens. Where not one name fits (a detector without names): by id, if
    every category id is a class index; else by order, if there are as many classes as categories.
    Raises ValueError where none of the three matches anything.
    """
    by_name: dict[str, int] = {}
    for index, name in enumerate(class_names):
        if name:
            by_name.setdefault(_normalise(name), index)
    index_of = {
        category: by_name[_normalise(name)] for category, name in categories.items() if _normalise(name) in by_name
    }
    by = "name"
    if not index_of and not any(class_names):
        if len(class_names) == len(categories):
            index_of, by = {category: index for index, category in enumerate(sorted(categories))}, "order"
        elif categories and max(categories) < len(class_names):
            index_of, by = {category: category for category in categories}, "category id"
    if not index_of:
        raise ValueError(
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


def _normalise(name: str) -> str:
    plain = " ".join(name.lower().replace("-", " ").replace("_", " ").split())
    return ALIASES.get(plain, plain)


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
