"""Choosing and renaming the classes of data: names of other data sets meet a detector's, and only some are used."""

from collections import Counter
from dataclasses import replace
from unicodedata import normalize

from mask_frozen_detr.data.annotation_table import pack, recategorise
from mask_frozen_detr.data.coco import ClassChoice, CocoData
from mask_frozen_detr.errors import UserError, shorten

NOT_CHOSEN = "object of a class that was not chosen, left out"


def read_choice(classes: str | None, class_map: str | None) -> ClassChoice:
    """The choice that words of a command line make: "person,dog" and "pedestrian=person,auto=car".

    Raises UserError for an empty list of classes, and for what is no a=b or renames one class twice.
    """
    chosen = None
    if classes is not None:
        chosen = tuple(dict.fromkeys(name.strip() for name in classes.split(",") if name.strip()))
        if not chosen:
            raise UserError(f"classes: found {classes!r}, expected names with commas between, as person,dog")
    renamed: dict[str, str] = {}
    for pair in [] if class_map is None else class_map.split(","):
        before, equals, after = (word.strip() for word in pair.partition("="))
        if not (before and equals and after):
            raise UserError(f"class_map: found {pair!r}, expected a name in the data and its new one, as a=b")
        if renamed.get(before, after) != after:
            raise UserError(f"class_map: found two names for {before!r}, {renamed[before]!r} and {after!r}")
        renamed[before] = after
    return ClassChoice(chosen, renamed)


def choose_classes(data: CocoData, choice: ClassChoice, strict: bool = True) -> CocoData:
    """`data` with its classes renamed, those of one name made one, and only the chosen ones left.

    Pictures stay, be they without objects then. strict: a name that the data lacks is an error; else it is passed over.
    Raises UserError for such a name, and where no class is left.
    """
    doubled = {name: count for name, count in Counter(data.categories.values()).items() if count > 1}
    if not doubled and (choice == ClassChoice() or choice == data.choice):
        return data
    if strict:
        _check_known(data, choice)
    renamed = {_plain(before): after for before, after in choice.renamed.items()}
    chosen = None if choice.chosen is None else {_plain(name) for name in choice.chosen}
    ids: dict[str, int] = {}  # name to the id of its class, the first of those made one
    new_id: dict[int, int] = {}
    for number, name in sorted(data.categories.items(), key=lambda entry: _plain(entry[1]) in renamed):
        name = renamed.get(_plain(name), name)
        if chosen is None or _plain(name) in chosen:
            new_id[number] = ids.setdefault(name, number)
    if not ids:
        raise UserError(
            f"{data.annotation_file}: none of its classes was chosen; found {shorten(data.categories.values(), 30)}, "
            f"expected some of {shorten(choice.chosen or ())}"
        )
    groups = pack((record.annotations, (record.height, record.width)) for record in data.images)
    images = [
        replace(record, annotations=group)
        for record, group in zip(data.images, recategorise(groups, new_id), strict=True)
    ]
    lost = sum(len(record.annotations) for record in data.images) - sum(len(record.annotations) for record in images)
    notes = data.notes | ({NOT_CHOSEN: lost} if lost else {})
    notes |= {f"category called '{name}' as another is: taken as one class": n - 1 for name, n in doubled.items()}
    categories = dict(sorted((number, name) for name, number in ids.items()))
    return replace(data, images=images, categories=categories, notes=notes, choice=choice)


def _check_known(data: CocoData, choice: ClassChoice) -> None:
    """Raises UserError where a class is to be renamed or chosen that the data has not."""
    known = {_plain(name) for name in data.categories.values()}
    renamed = {_plain(name) for name in choice.renamed.values()}
    for option, names, there in (
        ("class_map", choice.renamed, known),
        ("classes", choice.chosen or (), known | renamed),
    ):
        lacking = [name for name in names if _plain(name) not in there]
        if lacking:
            raise UserError(
                f"{option}: found {shorten(lacking)}, expected classes of {data.annotation_file}: "
                f"{shorten(data.categories.values(), 30)}"
            )


def _plain(name: str) -> str:
    return normalize("NFC", name)
