"""Which class index of the detector stands for which category of the data: by name, or where it has none, by id.

A run decides this once, from its training data (`RunClasses`), and stores it by category name: another file may number
its categories otherwise or list fewer of them, and still every class means what it meant in training.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mask_frozen_detr.data.coco import ClassChoice, CocoData
from mask_frozen_detr.errors import UserError, shorten

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
class RunClasses:
    """What the classes of a run are called. index_of: category name, as the training data writes it → class index.

    choice: what the user chose of the data's classes; other data is taken alike.
    """

    index_of: dict[str, int]
    by: str  # how they were matched with the training data: "name", "category id" or "order"
    choice: ClassChoice = field(default_factory=ClassChoice)

    def describe(self) -> dict[str, Any]:
        """What a run folder keeps of it, for JSON; `read` takes it back."""
        chosen = None if self.choice.chosen is None else list(self.choice.chosen)
        return {"by": self.by, "index_of": self.index_of, "chosen": chosen, "renamed": self.choice.renamed}

    @staticmethod
    def read(saved: Any, classes: int) -> "RunClasses":
        """The classes that `describe` wrote, of a detector with so many. Raises ValueError where they are damaged."""
        index_of, by = saved["index_of"], saved["by"]
        if by not in ("name", "category id", "order"):
            raise ValueError(f"classes: 'by' is {by!r:.40}, expected 'name', 'category id' or 'order'")
        for name, index in index_of.items():
            if type(index) is not int or not 0 <= index < classes:
                raise ValueError(f"classes: {name!r:.40} has index {index!r:.40}, expected 0 to {classes - 1}")
        if len(set(index_of.values())) < len(index_of):
            raise ValueError("classes: two names have one index")
        chosen, renamed = saved.get("chosen"), saved.get("renamed", {})  # runs of older versions have none
        if not (chosen is None or (isinstance(chosen, list) and all(isinstance(name, str) for name in chosen))):
            raise ValueError(f"classes: 'chosen' is {chosen!r:.40}, expected names")
        if not isinstance(renamed, dict) or not all(isinstance(name, str) for name in renamed.values()):
            raise ValueError(f"classes: 'renamed' is {renamed!r:.40}, expected names by name")
        choice = ClassChoice(None if chosen is None else tuple(chosen), dict(renamed))
        return RunClasses(dict(index_of), by, choice)

    def names(self, class_names: Sequence[str]) -> list[str]:
        """The detector's class names, the nameless called as the training data calls them."""
        named = {index: name for name, index in self.index_of.items()}
        return [name or named.get(index, "") for index, name in enumerate(class_names)]


@dataclass(frozen=True)
class ClassMap:
    """Which class of the detector is which category of the data; what found no partner is listed by name.

    category_of: class index → category id; index_of: its inverse.
    """

    category_of: dict[int, int]
    index_of: dict[int, int]
    unmatched_categories: list[str]
    unmatched_classes: list[str]
    by: str  # "name", "category id" or "order"
    run: RunClasses  # what to store, so that other files are mapped alike

    def summary(self) -> str:
        lines = [f"{len(self.index_of)} classes of detector and data match by {self.by}."]
        if self.unmatched_categories:
            lines.append(f"Only in the data, left out of training and scores: {_some(self.unmatched_categories)}.")
        if self.unmatched_classes:
            lines.append(f"Only in the detector, not scored: {_some(self.unmatched_classes)}.")
        return " ".join(lines)


def map_classes(class_names: Sequence[str], categories: Mapping[int, str], run: RunClasses | None = None) -> ClassMap:
    """Match the detector's class names ("" where it has none) with the data's categories (id → name).

    By name, whatever the case, spaces, hyphens and Unicode form; a name of the very same spelling goes first, of
    several that are left the first. For a detector without any name: by id, if every category id is a class index;
    else by order, if there are as many classes as categories.

    Args:
        run: of a run that was trained: its classes, found again by their names in whatever file.

    Raises: UserError where nothing matches, and where the data contradicts the run.
    """
    index_of, by = _match(class_names, categories, run)
    known = list(run.index_of) if run is not None else [name for name in class_names if name]
    if not index_of:
        raise UserError(
            f"no category of the data is a class of the {'detector' if run is None else 'run'}: found "
            f"{_some(list(categories.values()))}, expected some of "
            f"{_some(known) or f'{len(class_names)} unnamed classes'}"
        )
    names = class_names if run is None else run.names(class_names)
    used = set(index_of.values())
    return ClassMap(
        category_of={index: category for category, index in index_of.items()},
        index_of=index_of,
        unmatched_categories=[name for category, name in categories.items() if category not in index_of],
        unmatched_classes=[name for index, name in enumerate(names) if name and index not in used],
        by=by,
        run=run or RunClasses({categories[category]: index for category, index in index_of.items()}, by),
    )


def _match(
    class_names: Sequence[str], categories: Mapping[int, str], run: RunClasses | None
) -> tuple[dict[int, int], str]:
    """Category id → class index, of those that match, and by what they do; see `map_classes`."""
    indices = {name: index for index, name in _named(class_names)}
    if run is not None:
        index_of = _by_name({**indices, **run.index_of}, categories)
        if not any(class_names) and run.by == "category id":
            _add_by_id(index_of, class_names, categories, run)
        return index_of, "name"
    if any(class_names):
        return _by_name(indices, categories), "name"
    if all(0 <= category < len(class_names) for category in categories):
        return {category: category for category in categories}, "category id"
    if len(class_names) == len(categories):
        return {category: index for index, category in enumerate(sorted(categories))}, "order"
    return {}, "name"


def class_indices(
    class_names: Sequence[str], run: RunClasses | None, classes: Sequence[str] | None = None
) -> list[int] | None:
    """Indices of the classes of these names; without names, of those chosen for the run's training. None: all.

    Raises UserError for a name that no class has.
    """
    if classes is None:
        return sorted(run.index_of.values()) if run is not None and run.choice.chosen is not None else None
    by_form = {normalise(name): index for index, name in reversed(list(enumerate(class_names))) if name}
    lost = [name for name in classes if normalise(name) not in by_form]
    if lost or not classes:
        known = shorten(filter(None, class_names), 30)
        raise UserError(f"classes: found {shorten(lost) or 'none'}, expected some of {known}")
    return sorted({by_form[normalise(name)] for name in classes})


def classes_of(data: CocoData, class_names: Sequence[str], run: RunClasses | None = None) -> ClassMap:
    """`map_classes` for a data set. Raises UserError that names its file."""
    try:
        found = map_classes(class_names, data.categories, run)
    except UserError as error:
        raise UserError(f"{data.annotation_file}: {error}") from None
    return found if run is not None else replace(found, run=replace(found.run, choice=data.choice))


def _named(class_names: Sequence[str]) -> list[tuple[int, str]]:
    """Index and name of the classes that have one; of two of one name, the first comes last and so wins."""
    return [(index, name) for index, name in reversed(list(enumerate(class_names))) if name]


def _by_name(classes: Mapping[str, int], categories: Mapping[int, str]) -> dict[int, int]:
    """Category id → class index, each class once."""
    found: dict[int, int] = {}
    taken: set[int] = set()
    for form in (str, normalise):
        index_by_form = {form(name): index for name, index in classes.items()}
        for category, name in categories.items():
            index = index_by_form.get(form(name))
            if index is not None and category not in found and index not in taken:
                found[category] = index
                taken.add(index)
    return {category: found[category] for category in categories if category in found}


def _add_by_id(
    index_of: dict[int, int], class_names: Sequence[str], categories: Mapping[int, str], run: RunClasses
) -> None:
    """Categories that the training data did not list, of a run whose class indices are category ids."""
    trained = {index: name for name, index in run.index_of.items()}
    taken = set(index_of.values())
    for category, name in categories.items():
        if category in index_of or not 0 <= category < len(class_names):
            continue
        if category in trained:
            raise UserError(
                f"category {category} is '{name}', but the run was trained with '{trained[category]}' as "
                f"{category}; give it the same name, or another id"
            )
        if category not in taken:
            index_of[category] = category


def normalise(name: str) -> str:
    """The form in which names are compared: one Unicode form, without case, hyphens and invisible characters."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    plain = "".join(" " if c in "-_" else c for c in plain if unicodedata.category(c) != "Cf")
    plain = " ".join(plain.split())
    return ALIASES.get(plain, plain)


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
