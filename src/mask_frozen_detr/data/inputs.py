"""Pictures as callers hold them, file names, bytes, PIL images, arrays, tensors, as upright 8-bit RGB.

Not in the paper. What is no picture is refused by name, before any work: `NoPicture` is a `TypeError`.
"""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image, ImageOps

from mask_frozen_detr.data.download import download, is_web_address
from mask_frozen_detr.data.images import open_header, read_image, to_rgb
from mask_frozen_detr.errors import UserError, printable, reason

if TYPE_CHECKING:
    import torch

EXPECTED = (
    "a path, an http or https address, encoded bytes, a binary file object, a PIL image, an array (H, W), (H, W, 1), "
    "(H, W, 3) or (H, W, 4) of uint8, uint16, bool or floats in [0, 1], or a tensor (1, H, W), (3, H, W) or (4, H, W) "
    "of the same"
)


class NoPicture(UserError, TypeError):
    """What was given is no picture: found and expected."""


@runtime_checkable
class _Readable(Protocol):
    def read(self) -> Any: ...


def is_one_picture(value: Any) -> bool:
    """Whether `value` is a single picture, or something that never is one: not several of them."""
    pictures = str | os.PathLike | bytes | bytearray | memoryview | Image.Image | np.ndarray
    one = isinstance(value, (pictures, Mapping, _Readable)) or _is_tensor(value)
    return one or not isinstance(value, Iterable)


def to_picture(value: Any) -> Image.Image:
    """One picture in any of the forms of `EXPECTED` as upright 8-bit RGB.

    Files, also from the web, encoded bytes and file objects are turned as their EXIF data says; PIL images, arrays and
    tensors are taken as they lie. Transparency is laid over white.
    Raises NoPicture for all else; UserError for a file or bytes that cannot be had or read.
    """
    if isinstance(value, str) and is_web_address(value):
        return _decode(io.BytesIO(download(value)), printable(value))
    if isinstance(value, str) and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", value):
        raise NoPicture(f"image: found the address {printable(value)!r}, expected http or https; download it first")
    if isinstance(value, str | os.PathLike):
        return read_image(Path(os.fsdecode(value)))
    if isinstance(value, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(value), "image bytes")
    if isinstance(value, Image.Image):
        if not (value.width and value.height):
            raise NoPicture(f"PIL image: found {value.width} × {value.height} pixels, expected at least one")
        try:
            return to_rgb(value, "PIL image")
        except UserError:
            raise
        except (OSError, ValueError, SyntaxError, AttributeError) as error:  # closed, cut short, of a rare mode
            raise UserError(f"PIL image of mode {value.mode}: cannot be read: {reason(error)}") from error
    if _is_tensor(value):
        return _from_array(_channels_last(value), f"tensor {tuple(value.shape)} {value.dtype}")
    if isinstance(value, np.ndarray):
        return _from_array(value, f"array {value.shape} {value.dtype}")
    if isinstance(value, _Readable):
        content = value.read()
        if not isinstance(content, bytes):
            raise NoPicture(f"image: found a file object that gives {type(content).__name__}, expected mode 'rb'")
        return _decode(io.BytesIO(content), "image file object")
    raise NoPicture(f"image: found {type(value).__name__}, expected {EXPECTED}")


def _decode(file: IO[bytes], name: str) -> Image.Image:
    try:
        with open_header(file, name) as image:
            image.load()
            upright: Image.Image = image
            with contextlib.suppress(Exception):  # damaged EXIF data says nothing about the pixels
                upright = ImageOps.exif_transpose(image)
            return to_rgb(upright, name)
    except UserError:
        raise
    except Exception as error:  # whatever Pillow's decoders raise on what is no picture
        raise UserError(f"{name}: cannot be read as JPEG, PNG, WebP, BMP or TIFF ({reason(error)})") from None


def _is_tensor(value: Any) -> bool:
    """Whether a value is torch's, which is not imported for it: who has a tensor has done so."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _channels_last(tensor: "torch.Tensor") -> np.ndarray:
    """(1, 3 or 4, H, W) → (H, W, C), floats of any width as float32."""
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3, 4):
        several = "; several pictures as a list: list(tensor)" if tensor.ndim == 4 else ""
        raise NoPicture(
            f"image: found a tensor {tuple(tensor.shape)} {tensor.dtype}, expected (1, H, W), (3, H, W) or "
            f"(4, H, W){several}"
        )
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).permute(1, 2, 0).numpy()


def _from_array(array: np.ndarray, found: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not array.size or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        several = "; several pictures as a list" if array.ndim == 4 else ""
        raise NoPicture(
            f"image: found an {found}, expected an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) with pixels{several}"
        )
    kind = array.dtype
    if kind == np.uint8:
        pixels = array
    elif kind == np.bool_:
        pixels = array.astype(np.uint8) * 255
    elif kind == np.uint16:  # by its full range, as files of 16 bits are
        pixels = ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    elif kind.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN, too
            raise NoPicture(
                f"image: found an {found} with values from {low:g} to {high:g}, expected floats in [0, 1]; divide by "
                "255 where that is their range"
            )
        pixels = (array.astype(np.float64) * 255).round().astype(np.uint8)
    else:
        raise NoPicture(f"image: found an {found}, expected uint8, uint16, bool or floats in [0, 1]")
    return to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), "image array")
