"""Labels in any script: Pillow's own font, and for letters that it lacks one of the system's that has them.

Pillow draws an empty box for a letter that a font lacks, and says nothing: whether a font has it is seen by comparing
what it draws with what it draws for a code point that no font has. Without any font the letter becomes "?".
"""

import os
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Literal

from PIL import ImageDraw, ImageFont

from mask_frozen_detr.errors import JOINERS, UserError, printable, reason
from mask_frozen_detr.machine.regular_files import check_regular

Face = Path | None  # a font file; None is Pillow's own
LETTERS_OF_A_LABEL = 60
UNKNOWN = "?"
NOBODYS = "\U0010fffd"  # a code point of a private plane, which no font has
PROBE = 24  # pixels
STYLES = ("bold", "italic", "oblique", "mono", "light", "thin", "black", "condensed", "serif", "-it", "math")
INVISIBLE = JOINERS + "\ufe0e\ufe0f"  # shape their neighbours; left out where a font lacks them


def check_font(font: Path | None) -> None:
    """Raises UserError where `font` is no font file that Pillow can open."""
    if font is not None:
        try:
            check_regular(font, "a TrueType or OpenType file")
            ImageFont.truetype(str(font), PROBE)
        except (OSError, ValueError) as error:
            raise UserError(
                f"font: found {printable(str(font))}, which cannot be opened ({reason(error)}); expected a TrueType or "
                "OpenType file"
            ) from error


def label(text: str) -> str:
    """`text` as it may be shown: without control characters, not longer than a picture is wide."""
    return printable(text, LETTERS_OF_A_LABEL)


def text_width(text: str, points: int, font: Path | None = None) -> float:
    """Pixels from left to right."""
    return sum(_open(face, points).getlength(part) for face, part in _runs(text, font))


def write_text(
    draw: ImageDraw.ImageDraw, left: float, middle: float, text: str, points: int, fill: str, font: Path | None = None
) -> None:
    """Draw `text` from `left`, its line's middle at the height `middle`."""
    for face, part in _runs(text, font):
        draw.text((left, middle), part, fill=fill, font=_open(face, points), anchor="lm")
        left += _open(face, points).getlength(part)


def undrawable(text: str, font: Path | None = None) -> str:
    """The letters of `text` that neither `font` nor any other font here has, each once."""
    return "".join(dict.fromkeys(c for c in _letters(text) if _face_of(c, font) is False))


def _letters(text: str) -> str:
    """All letters of `text` that must be seen."""
    return "".join(c for c in text if c.isprintable() and not c.isspace() and c not in INVISIBLE)


def _runs(text: str, font: Path | None) -> Iterator[tuple[Face, str]]:
    """Parts of `text` that one face draws: all of it, if the face of the first letter that `font` lacks has all.

    A font of the user's choice draws what it has. Spaces between parts of one face are its own, or Arabic words would
    change places.
    """
    lacking = next((c for c in _letters(text) if not _has(font, c)), None)
    other: Face | Literal[False] = font if lacking is None else _face_of(lacking, font)
    if other is not False and (font is None or other == font) and all(_has(other, c) for c in _letters(text) + " "):
        yield other, text
        return
    letters: list[tuple[Face, str]] = []
    for c in text:
        previous = letters[-1][0] if letters else font
        face: Face | Literal[False]
        if c.isspace():
            face = previous if _has(previous, c) else None
        else:
            face = previous if c in INVISIBLE or unicodedata.combining(c) else _face_of(c, font)
        if face is False:
            letters.append((None, UNKNOWN))
        elif c not in INVISIBLE or _has(face, c):
            letters.append((face, c))
    for place, (_, c) in enumerate(letters):
        following = next((face for face, later in letters[place:] if not later.isspace()), None)
        if c.isspace() and letters[place][0] != following:
            letters[place] = (None, c)
    for drawing, group in groupby(letters, key=lambda pair: pair[0]):
        yield drawing, "".join(c for _, c in group)


def _face_of(letter: str, font: Path | None) -> Face | Literal[False]:
    """The first face that has `letter`: `font` before all others, the system's last; False if there is none."""
    if font is not None and _has(font, letter):
        return font
    if _has(None, letter):
        return None
    return _system_face(letter, _system_fonts(_folders_now()))


@lru_cache(maxsize=4096)
def _system_face(letter: str, fonts: tuple[Path, ...]) -> Path | Literal[False]:
    return next((face for face in fonts if _has(face, letter)), False)


@lru_cache(maxsize=4096)
def _has(face: Face, letter: str) -> bool:
    try:
        opened = _open(face, PROBE)
        return _drawn(opened, letter) != _drawn(opened, NOBODYS)
    except (OSError, ValueError):  # no font, or one of coloured pictures that are not to be scaled
        return False


def _drawn(opened: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = opened.getmask(letter)
    return mask.size, bytes(mask)


@lru_cache(maxsize=512)
def _open(face: Face, points: int) -> ImageFont.FreeTypeFont:
    opened = ImageFont.load_default(points) if face is None else ImageFont.truetype(str(face), points)
    assert isinstance(opened, ImageFont.FreeTypeFont)  # Pillow is built with FreeType
    return opened


def _folders_now() -> tuple[tuple[Path, int], ...]:
    """The folders that there are, and when each last changed: a font that is put into one meanwhile is found."""
    return tuple((folder, folder.stat().st_mtime_ns) for folder in font_folders() if folder.is_dir())


@lru_cache(maxsize=1)
def _system_fonts(folders: tuple[tuple[Path, int], ...]) -> tuple[Path, ...]:
    """Font files of these folders, plain ones first."""
    files = []
    for folder, _ in folders:
        for parent, _, names in os.walk(folder):
            files += [Path(parent, name) for name in names if name.lower().endswith((".ttf", ".ttc", ".otf"))]
    return tuple(sorted(files, key=lambda file: (any(style in file.name.lower() for style in STYLES), file.name)))


def font_folders() -> list[Path]:
    """Where this system keeps its fonts."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        return [Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"), home / "AppData/Local/Microsoft/Windows/Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), data / "fonts", home / ".fonts"]
