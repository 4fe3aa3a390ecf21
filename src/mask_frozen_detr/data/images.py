"""Finding and reading images: whatever a camera, a scanner or a drawing program saved becomes upright 8-bit RGB.

Not in the paper. Pillow alone would cut 16-bit greys at 255 (nearly all of them white), leave photos lying on
their side and show what happens to lie beneath transparent pixels.
"""

import contextlib
import glob
import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.machine.regular_files import check_regular

ORIENTATION, IMAGE_WIDTH, IMAGE_LENGTH = 0x0112, 0x0100, 0x0101  # EXIF's and TIFF's tags
MOST_PIXELS = 178_956_970  # Pillow's own limit
PIXELS_VARIABLE = "MASK_FROZEN_DETR_MAX_PIXELS"  # of the environment: pixels that a picture may have
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

# What Pillow's decoders raise on damaged files.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


def read_image(path: str | Path, apply_exif: bool = True) -> Image.Image:
    """One image file as upright 8-bit RGB; of an animation or a file of many pages, the first.

    Transparency is laid over white: cut-outs and logos are made for white pages, and dark strokes would vanish on
    black. 16-bit greys are scaled by their full range, 65535 to 255.

    Args:
        apply_exif: turn the image as its EXIF orientation says. False gives the pixels as stored, to which COCO
            annotations refer (but Pillow turns TIFF files itself).

    Raises: UserError naming the file, when it is missing, unreadable, truncated, too large or not an image.
    """
    path = Path(path)
    try:
        check_regular(path, "an image file")
        with open_header(path, path) as file:
            file.load()
            if apply_exif:
                _turn_upright(file)
            return to_rgb(file, path)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such image file") from None
    except PermissionError:
        raise UserError(f"{path}: no permission to read this image file") from None
    except UnidentifiedImageError:
        found = "is empty (0 bytes)" if path.stat().st_size == 0 else "is not an image that can be read"
        raise UserError(f"{path}: {found}, expected JPEG, PNG, WebP, BMP or TIFF") from None
    except MemoryError:
        raise UserError(f"{path}: too large for this machine's memory; scale the image down") from None
    except Exception as error:  # whatever a damaged file brings about in a decoder
        raise UserError(f"{path}: the image is damaged or truncated ({reason(error)}); replace the file") from None


def open_header(source: Path | IO[bytes], name: str | Path) -> Image.Image:
    """A picture of which only the header has been read.

    Raises UserError, before pixels take memory, where it says that there are too many.
    """
    limit = pixel_limit()
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # Pillow's own limit cannot be raised by a user
    try:
        file = Image.open(source)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    if file.width * file.height > limit:
        file.close()
        raise UserError(
            f"{name}: {file.width} × {file.height} pixels, expected at most {limit} in all; scale the image down, or "
            f"set {PIXELS_VARIABLE} in the environment to what this machine's memory holds"
        )
    return file


def stored_orientation(path: Path) -> tuple[int, tuple[int, int]]:
    """EXIF's orientation tag (1 = upright, or none) and the size as stored, of a file's header alone.

    Raises UserError where the header cannot be read.
    """
    try:
        check_regular(path, "an image file")
        with open_header(path, path) as file:
            tag = file.getexif().get(ORIENTATION, 1)
            size = file.size
            if isinstance(file, TiffImageFile):  # which gives the size that it will have when it is turned
                size = file.tag_v2[IMAGE_WIDTH], file.tag_v2[IMAGE_LENGTH]
            return (tag if isinstance(tag, int) and 1 <= tag <= 8 else 1), size
    except UserError:
        raise
    except Exception as error:  # whatever a damaged header brings about
        raise UserError(f"{path}: its header cannot be read ({reason(error)})") from None


def pixel_limit() -> int:
    """Pixels that a picture may have, so that memory is bounded before it is taken.

    Raises UserError where the environment says what is no number.
    """
    text = os.environ.get(PIXELS_VARIABLE)
    if text is None:
        return MOST_PIXELS
    if not text.isdecimal() or not int(text):
        raise UserError(f"{PIXELS_VARIABLE}: found {text!r}, expected a whole number of pixels above 0")
    return int(text)


def _turn_upright(image: Image.Image) -> None:
    """Turns a picture in place: a copy of one that is upright already would take as much memory again."""
    with contextlib.suppress(*_DAMAGE, TypeError):  # damaged EXIF data says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)


def to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    """An image of any Pillow mode as 8-bit RGB, as `read_image` does. Raises UserError that names `path`."""
    if image.mode.startswith("I") or image.mode == "F":
        return _from_deep_grey(image, path)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")  # a copy for RGB too: the file is closed behind it


def _from_deep_grey(image: Image.Image, path: str | Path) -> Image.Image:
    """16-bit grey (mode I;16 and kin; I in older Pillow and for signed TIFF) to RGB."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" or not (low >= 0 and high <= 65535):
        raise UserError(
            f"{path}: grey values from {low:g} to {high:g} (Pillow mode {image.mode}), expected 8 bits or "
            "unsigned 16 bits a channel; convert the image"
        )
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """Image files named by files, folders (all below them, sorted by path) and glob patterns, each once.

    A file named outright is taken whatever its suffix; in folders and patterns only those in `SUFFIXES` count, and
    hidden files do not. A folder without any may lie among others, as `photos/*` has it.

    Raises: UserError naming the input that is not there or gave no image.
    """
    found: dict[Path, None] = {}  # a set that keeps the order
    for entry in inputs:
        found.update(dict.fromkeys(_named_by(entry)))
    if not inputs:
        raise UserError("no input: expected image files, folders or glob patterns")
    if not found:
        raise UserError(f"{inputs[0]}: the folder holds no image ({', '.join(SUFFIXES)})")
    return list(found)


def _named_by(entry: str | Path) -> list[Path]:
    """The image files that one input stands for; none for a folder without any. Raises UserError as `find_images`."""
    path = Path(entry).expanduser()
    if path.is_dir():
        return pictures_below(path)
    if os.path.lexists(path):
        return [path]  # reading it will say what is wrong with it
    if not glob.has_magic(str(path)):
        raise UserError(f"{entry}: there is no such file or folder")
    named: list[Path] = []
    for match in map(Path, sorted(glob.glob(str(path), recursive=True))):
        if match.is_dir():
            named += pictures_below(match)
        elif match.suffix.lower() in SUFFIXES:
            named.append(match)
    if not named:
        raise UserError(f"{entry}: no image file matches this pattern ({', '.join(SUFFIXES)})")
    return named


def pictures_below(folder: Path) -> list[Path]:
    """Image files of a folder and those below it, by their suffixes, without hidden ones.

    Raises UserError for a folder that cannot be read.
    """

    def stop(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot read this folder ({error.strerror})")

    files = []
    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".") and name.lower().endswith(SUFFIXES)]
    return sorted(files)
