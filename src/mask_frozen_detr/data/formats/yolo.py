"""YOLO's segmentation labels: a text file a picture, a line an object, coordinates as fractions of the picture's sides.

A line is "class x y x y …", a polygon, or "class x y w h", a box by its centre; both may stand in one file. Names of
classes and places of the splits are in `data.yaml`; Label Studio writes `classes.txt` instead and no splits.
"""

import math
import os
import reprlib
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from mask_frozen_detr.data.assemble import Assembly
from mask_frozen_detr.data.coco import MISSING_PICTURE, CocoData, Orientation
from mask_frozen_detr.data.formats.layout import SPLIT_WORDS, SPLITS, Layout, Split
from mask_frozen_detr.data.images import SUFFIXES, find_images
from mask_frozen_detr.data.picture_paths import find_pictures
from mask_frozen_detr.data.validation import Broken, whole
from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.regular_files import check_regular, read_regular

FORMAT = "YOLO-seg"
EXPECTED = (
    "data.yaml with 'names' and the folders of 'train' and 'val', images/…/a.jpg with labels/…/a.txt",
    "classes.txt with images/a.jpg and labels/a.txt (Label Studio)",
)
MOST_BYTES = 1_000_000  # of a settings file: YAML is read slowly, and thousands of names take a tenth of this
MOST_TEXT = 100_000_000  # bytes of labels or of a list
ROUNDED = 0.01  # by how much tools' rounding may lead out of the picture, in its sides
NO_LABELS = "picture without a label file, taken as one without objects"
TWICE = "object written twice, used once"


@dataclass(frozen=True)
class Config:
    """A data.yaml: class ids to names, and what it says of each split."""

    file: Path
    names: dict[int, str]
    root: Path  # where its places begin
    places: dict[str, list[str]]


def find(path: Path, elsewhere: Collection[str] = ()) -> Layout | None:
    """The splits that a data.yaml names, or all pictures beside a classes.txt.

    Raises UserError for a data.yaml that is broken, and for several of them.
    """
    if path.is_file():
        return _layout(_read_config(path), elsewhere) if path.suffix.lower() in (".yaml", ".yml") else None
    file = _config_file(path)
    if file is not None:
        return _layout(_read_config(file), elsewhere)
    if (path / "classes.txt").is_file() and (path / "labels").is_dir():
        names = [line.strip() for line in _read_text(path / "classes.txt").splitlines() if line.strip()]
        places = {split: [f"images/{word}"] for word, split in SPLIT_WORDS.items() if (path / "images" / word).is_dir()}
        config = Config(path / "classes.txt", dict(enumerate(names)), path, places or {"train": ["images"]})
        return _layout(config, elsewhere)
    return None


def _config_file(folder: Path) -> Path | None:
    usual = [folder / name for name in ("data.yaml", "data.yml", "dataset.yaml") if (folder / name).is_file()]
    if usual:
        return usual[0]
    found = []
    for file in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        try:
            content = _load_yaml(file)
        except UserError:
            continue  # other tools' files lie about; one named data.yaml is complained of
        if isinstance(content, dict) and "names" in content and any(split in content for split in SPLIT_WORDS):
            found.append(file)
    if len(found) > 1:
        raise UserError(f"{folder}: {found[0].name} and {found[1].name} both name classes and splits; give one of them")
    return found[0] if found else None


def _read_config(file: Path) -> Config:
    content = _load_yaml(file)
    if not isinstance(content, dict):
        raise UserError(f"{file}: found a {type(content).__name__}, expected keys 'names', 'train' and 'val'")
    if "kpt_shape" in content:
        raise UserError(f"{file}: 'kpt_shape' says that its labels are key points, expected polygons or boxes")
    names = _names(content.get("names"), file)
    count = content.get("nc")
    if isinstance(content.get("names"), list) and count is not None and whole(count) != len(names):
        raise UserError(f"{file}: 'nc' is {_shown(count)}, but 'names' has {len(names)} names")
    root = content.get("path")
    if root is not None and not isinstance(root, str):
        raise UserError(f"{file}: 'path' is {_shown(root)}, expected a folder")
    places: dict[str, list[str]] = {}
    for word, split in SPLIT_WORDS.items():
        value = content.get(word)
        values = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(one, str) and one for one in values):
            raise UserError(f"{file}: '{word}' is {_shown(value)}, expected a folder or a list of them")
        if values:
            places.setdefault(split, values)
    if not places:
        raise UserError(f"{file}: no key 'train' or 'val' that names a folder of pictures")
    return Config(file, names, file.parent / (root or "."), places)


def _load_yaml(file: Path) -> Any:
    try:
        check_regular(file)
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: found {file.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
        return yaml.safe_load(_read_text(file))
    except yaml.YAMLError as error:
        raise UserError(f"{file}: is not YAML ({printable(' '.join(str(error).split()))})") from None
    except (RecursionError, ValueError, TypeError, KeyError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: is not YAML that can be read ({reason(error)})") from None


def _shown(value: Any) -> str:
    """A value for a message. In YAML a few lines can stand for more than memory holds, so it is never written out."""
    return printable(reprlib.repr(value), 60)


def _names(names: Any, file: Path) -> dict[int, str]:
    """Class ids to names; ids may have gaps."""
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{file}: 'names' is {_shown(names)}, expected the names of the classes")
    found: dict[int, str] = {}
    for key, name in names.items():
        number = whole(key)
        if number is None or number < 0 or isinstance(key, bool):
            raise UserError(f"{file}: 'names' has the key {_shown(key)}, expected class numbers from 0")
        if not isinstance(name, str | int | float):
            raise UserError(f"{file}: class {number} is called {_shown(name)}, expected a name")
        if number in found:
            raise UserError(f"{file}: class {number} has two names, {found[number]!r} and {name!r}")
        found[number] = str(name)
    return dict(sorted(found.items()))


def _layout(config: Config, elsewhere: Collection[str]) -> Layout:
    splits: dict[str, Split] = {}
    lost: dict[str, str] = {}
    for split in SPLITS:
        if split not in config.places:
            continue
        found = [_place(config, value) for value in config.places[split]]
        there = [place for place in found if place is not None]
        if len(there) == len(found) or split in elsewhere:
            place = there[0] if there else config.file
            splits[split] = Split(place, partial(_read, config, there, place))
        else:
            gone = [value for value, place in zip(config.places[split], found, strict=True) if place is None]
            lost[split] = f"{config.file}: '{split}' names {', '.join(gone)}, which is not there (from {config.root})"
    return Layout(splits, lost)


def _place(config: Config, value: str) -> Path | None:
    """A folder of pictures or a list of them, where data.yaml says, or where that would lie in its own folder.

    Paths of the machine that exported are tried by their last parts, as far as these name a split.
    """
    value = value.replace("\\", "/")
    for root in (config.root, config.file.parent):
        if os.path.exists(root / value):  # a value may be too long for any name
            return root / value
    parts = [part for part in value.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        rest = parts[start:]
        if any(part.lower().startswith(word) for part in rest for word in SPLIT_WORDS):
            for root in (config.root, config.file.parent):
                if os.path.exists(root.joinpath(*rest)):
                    return root.joinpath(*rest)
    return None


def _read(config: Config, places: list[Path], place: Path, images: Path | None, orientation: Orientation) -> CocoData:
    """One split. Raises UserError where it has no picture, or not one label file."""
    split = Assembly(place, FORMAT, config.names, orientation)
    folders = [images] if images is not None else [folder for folder in places if folder.is_dir()]
    pictures = [picture for folder in folders for picture in find_images([folder])]
    if images is None:
        pictures += [picture for listing in places if listing.is_file() for picture in _listed(listing, split)]
    labels = {picture: _label_file(picture, folders, places) for picture in dict.fromkeys(pictures)}
    if labels and not any(labels.values()):
        first = next(iter(labels))
        raise UserError(
            f"{place}: not one of its {len(labels)} pictures has a label file; that of {first.name} would be "
            f"{_swapped(first).with_suffix('.txt')}"
        )
    for picture, label in labels.items():
        if label is None:
            split.notes[NO_LABELS] += 1
        size = split.measure(picture)
        if size is not None:
            _add(split, picture, size, label)
    for label in _orphans({label for label in labels.values() if label is not None}):
        split.skip(str(label), f"{MISSING_PICTURE}: none of that name beside {place}")
    return split.finish()


def _listed(listing: Path, split: Assembly) -> list[Path]:
    """The pictures that a text file names, one a line."""
    names = dict(enumerate(line.strip() for line in _read_text(listing).splitlines() if line.strip()))
    found = find_pictures(names, [listing.parent, listing.parent.parent], split.notes)
    for number, name in names.items():
        if number not in found:
            split.skip(f"{listing.name}, line {number + 1}", f"{MISSING_PICTURE}: {name}")
    return list(found.values())


def _swapped(picture: Path) -> Path:
    """The path with its last folder "images" called "labels", where YOLO looks for labels."""
    parts = list(picture.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            return Path(*parts[:place], "labels", *parts[place + 1 :])
    return picture


def _label_file(picture: Path, folders: list[Path], places: list[Path]) -> Path | None:
    """The label file of a picture, where there is one; for pictures named apart, where the layout has the labels."""
    candidates = [_swapped(picture), picture]
    for folder in folders:
        if picture.is_relative_to(folder):
            candidates += [_swapped(place / picture.relative_to(folder)) for place in places]
            candidates.append(folder.parent / "labels" / picture.relative_to(folder))
    files = (candidate.with_suffix(".txt") for candidate in candidates)
    return next((file for file in files if file.is_file()), None)


def _orphans(labels: set[Path]) -> list[Path]:
    """Label files beside those that are used which have no picture."""
    folders = {label.parent for label in labels}
    beside = {file for folder in folders if "labels" in folder.parts for file in folder.glob("*.txt")}
    return sorted(file for file in beside - labels if file.name != "classes.txt" and not _picture_of(file))


def _picture_of(label: Path) -> bool:
    parts = list(label.parts)
    place = len(parts) - 1 - parts[::-1].index("labels")
    picture = Path(*parts[:place], "images", *parts[place + 1 :])
    return any(picture.with_suffix(suffix).is_file() for suffix in SUFFIXES)


def _add(split: Assembly, picture: Path, size: tuple[int, int], label: Path | None) -> None:
    lines: list[str] = []
    if label is not None:
        try:
            lines = _read_text(label).splitlines()
        except UserError as error:
            split.skip(str(label), f"label file cannot be read: {reason(error)}")
            return  # without its labels the picture would teach that there is nothing
    number = split.add_picture(picture, size)
    seen: set[str] = set()
    for count, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if line in seen:
            split.notes[TWICE] += 1
            continue
        seen.add(line)
        where = f"{label}, line {count}"
        try:
            category, shape = parse_line(line, split.categories, size)
        except Broken as fault:
            split.skip(where, str(fault))
        else:
            split.add_object(number, category, shape, where)


def parse_line(line: str, names: dict[int, str], size: tuple[int, int]) -> tuple[int, dict[str, Any]]:
    """A line of a label file as class id and "bbox" or "segmentation" in pixels of a (width, height) picture.

    Raises Broken: an unknown class, what is no number, a number missing, coordinates outside [0, 1].
    """
    first, *rest = line.split()
    try:
        number = float(first)
        values = [float(word) for word in rest]
    except ValueError:
        raise Broken(f"label line holds something that is no number: {printable(line, 40)}") from None
    if not math.isfinite(sum(values, number)):
        raise Broken(f"label line holds something that is no finite number: {printable(line, 40)}")
    if number not in names:
        known = ", ".join(map(str, list(names)[:8])) + (" …" if len(names) > 8 else "")
        raise Broken(f"unknown class: {printable(first, 20)}, the names are of {known}")
    box = len(values) in (4, 5)  # a fifth is a confidence, as predictions have
    if not box and (len(values) < 6 or len(values) % 2):
        raise Broken(f"odd count of coordinates: {len(values)}, expected 4 for a box, or 6, 8, 10 … for a polygon")
    low, high = min(values), max(values[:4] if box else values)
    if low < -ROUNDED or high > 1 + ROUNDED:
        pixels = "; are these pixels?" if high > 2 else ""
        raise Broken(f"coordinates outside [0, 1]: {low if low < -ROUNDED else high:g}{pixels}")
    width, height = size
    if box:
        x, y, w, h = values[:4]
        return int(number), {"bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    polygon = [min(max(value, 0.0), 1.0) * size[place % 2] for place, value in enumerate(values)]
    return int(number), {"segmentation": [polygon]}


def _read_text(file: Path) -> str:
    try:
        return read_regular(file, MOST_TEXT).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is no text") from None
