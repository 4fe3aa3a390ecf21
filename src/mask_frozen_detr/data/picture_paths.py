"""Which file is meant by a name in an annotation file: tools write other folders, separators and Unicode forms."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize
from urllib.parse import unquote

from mask_frozen_detr.data.images import SUFFIXES

BY_BASE_NAME = "picture found by its base name alone, not by the whole name in the annotation file"
OTHER_FORM = "picture found under another Unicode form of its name"


class PictureFinder:
    """Finds pictures by listings of folders, not by asking for each file: one listing a folder is quicker.

    bases: folders that names may start at, the likeliest first.
    """

    def __init__(self, bases: Sequence[Path]):
        self.bases = [str(base) for base in bases]
        self._listings: dict[str, dict[str, str]] = {}  # a folder's names, as they are and composed, to as they are
        self._below: dict[str, list[str]] | None = None
        self._stems: dict[str, list[str]] = {}  # the same by names without their suffix, of pictures

    def find(self, name: str, notes: Counter[str]) -> Path | None:
        """The picture of a whole name, in any of its spellings; notes counts what had to be guessed."""
        for spelling in spellings(name):
            for base in self.bases:
                folder, last = os.path.split(os.path.join(base, spelling))
                listing = self._listing(folder)
                actual = last if listing.get(last) == last else listing.get(composed(last))
                if actual is not None:
                    if actual != last:
                        notes[OTHER_FORM] += 1
                    return Path(folder, actual)
        return None

    def find_by_base_name(self, name: str) -> Path | None:
        """The one file of that base name in the first base or below it, if there is just one.

        Capitals count for nothing (IMG_1.JPG, img_1.jpg), and a name without a suffix is that of a picture.
        """
        if self._below is None:
            self._below = {}
            for path in _below(self.bases[0]):
                base = base_name(os.path.basename(path))
                self._below.setdefault(base, []).append(path)
                if base.endswith(SUFFIXES):
                    self._stems.setdefault(os.path.splitext(base)[0], []).append(path)
        base = base_name(name)
        found = self._below.get(base, []) or self._stems.get(base, [])
        return Path(found[0]) if len(found) == 1 else None

    def _listing(self, folder: str) -> dict[str, str]:
        if folder not in self._listings:
            try:
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries]
            except (OSError, ValueError):  # no such folder, or a name that no folder can have
                names = []
            self._listings[folder] = {composed(name): name for name in names} | {name: name for name in names}
        return self._listings[folder]


def spellings(name: str) -> Iterator[str]:
    """A name as it is, with Windows' separators turned, and with what web tools write for spaces."""
    yield name
    turned = name.replace("\\", "/")
    yield from {turned: None, unquote(turned): None}


def base_name(name: str) -> str:
    """The last part of a name, composed, whatever its separators and capitals; of an address without its query."""
    plain = re.split(r"[?#]", name)[0] if "://" in name else name
    return composed(unquote(plain.replace("\\", "/")).rsplit("/", 1)[-1]).casefold()


def composed(name: str) -> str:
    """A name in the Unicode form that most tools write: é as one character."""
    return normalize("NFC", name)


def find_pictures(names: dict[int, str], bases: Sequence[Path], notes: Counter[str]) -> dict[int, Path]:
    """Image id to path, of those that are there. What is not found by its whole name is looked for by its base name,
    where neither the names nor the files have it twice. notes counts what had to be guessed."""
    finder = PictureFinder(bases)
    paths = {image_id: path for image_id, name in names.items() if (path := finder.find(name, notes))}
    if len(paths) == len(names):
        return paths
    bare, taken = Counter(base_name(name) for name in names.values()), set(paths.values())
    for image_id, name in names.items():
        if image_id in paths or bare[base_name(name)] > 1:
            continue
        path = finder.find_by_base_name(name)
        if path is not None and path not in taken:
            paths[image_id] = path
            taken.add(path)
            notes[BY_BASE_NAME] += 1
    return {image_id: paths[image_id] for image_id in names if image_id in paths}


def _below(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(parent, name) for name in sorted(names))
