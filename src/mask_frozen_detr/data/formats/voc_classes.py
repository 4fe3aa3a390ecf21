"""Which numbers and colours of VOC's label maps mean which class."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mask_frozen_detr.data.formats.label_maps import colour_numbers
from mask_frozen_detr.errors import UserError, printable, reason

MOST_BYTES = 16_000_000  # of a text or XML file
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
BACKGROUND = ("background", "_background_", "__ignore__")
BORDER = 255  # of no object; in colours (224, 224, 192)


def _colour(number: int) -> tuple[int, int, int]:
    """The colour of a number in VOC's palette: its bits, three at a time, from the top of red, green and blue down."""
    colour = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            colour[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return colour[0], colour[1], colour[2]


def _as_one(colour: tuple[int, int, int]) -> int:
    return colour[0] + 256 * colour[1] + 65536 * colour[2]


PALETTE = {_as_one(_colour(number)): number for number in range(256)}


@dataclass(frozen=True)
class ClassTable:
    """What the numbers and colours in maps of classes mean.

    names: number to class name, empty where nothing tells. colours: colour to number. categories: numbers from 1 to
    names, of the classes that objects may have.
    """

    categories: dict[int, str]
    names: dict[int, str]
    colours: dict[int, int] = field(default_factory=dict)

    def class_numbers(self, labels: np.ndarray) -> np.ndarray:
        """A map of classes as stored → (H, W) numbers; what is in no table is 255."""
        return _numbers(labels, self.colours or PALETTE)

    def object_numbers(self, labels: np.ndarray) -> np.ndarray:
        """A map of objects as stored → (H, W) numbers."""
        return _numbers(labels, PALETTE)


def _numbers(labels: np.ndarray, table: dict[int, int]) -> np.ndarray:
    if labels.ndim == 2:
        return labels.astype(np.int64)
    colours, places = np.unique(colour_numbers(labels), return_inverse=True)
    numbers = np.array([table.get(int(colour), BORDER) for colour in colours])
    return numbers[places].reshape(labels.shape[:2])


def read_class_table(root: Path, in_xml: set[str]) -> ClassTable:
    """The classes of CVAT's labelmap.txt or labelme's class_names.txt; else VOC's twenty, if XML files name no others.

    in_xml: names of the objects in the XML files. Raises UserError for a table that cannot be read.
    """
    labelmap, listed = root / "labelmap.txt", root / "class_names.txt"
    if labelmap.is_file():
        names, colours = _read_labelmap(labelmap)
    elif listed.is_file():
        names, colours = {n: line.strip() for n, line in enumerate(_lines(listed)) if line.strip()}, {}
    elif in_xml <= set(VOC_CLASSES):
        names, colours = dict(enumerate(VOC_CLASSES, 1)), {}
    else:
        names, colours = {}, {}
    names = {number: name for number, name in names.items() if name not in BACKGROUND}
    classes = dict.fromkeys([*names.values(), *sorted(in_xml - {""})])
    return ClassTable(dict(enumerate(classes, 1)), names, colours)


def _read_labelmap(file: Path) -> tuple[dict[int, str], dict[int, int]]:
    """Lines "name:red,green,blue:parts:actions" → number to name, colour to number."""
    names, colours = {}, {}
    for number, line in enumerate(line for line in _lines(file) if line.strip() and not line.startswith("#")):
        name, _, rest = line.strip().partition(":")
        parts = rest.split(":")[0].split(",")
        if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) < 256 for part in parts):
            raise UserError(f"{file}: found the line {printable(line, 60)!r}, expected name:red,green,blue:…")
        names[number] = name
        colours[_as_one((int(parts[0]), int(parts[1]), int(parts[2])))] = number
    return names, colours


def _lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: found {file.stat().st_size:,} bytes, expected at most {MOST_BYTES:,}")
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({reason(error)})") from None
