"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from mask_frozen_detr.errors import UserError

# What Pillow writes for a suffix. JPEG keeps full colour resolution, or thin coloured contours smear.
IMAGE_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 92}),
}


def write_atomic(path: str | Path, writer: Callable[[Path], None]) -> None:
    """`writer` fills a temporary file in `path`'s folder, made if need be; then it takes `path`'s place.

    Whatever goes wrong, an older file at `path` stays as it was and the temporary one is removed. Raises UserError
    with path and reason where the disk is full or writing is not permitted; all else that `writer` raises goes on.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")  # writers may look at the suffix
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        writer(temporary)
        temporary.chmod(mode)  # some writers, safetensors among them, leave files that only their owner may read
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise _not_written(path, error) from error
    finally:
        _remove(temporary)


def write_folder_atomic(folder: str | Path, writer: Callable[[Path], None]) -> None:
    """`writer` fills a temporary folder beside `folder`; then it takes its place, and an older one there goes.

    Raises UserError as `write_atomic` does.
    """
    folder = Path(folder)
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("part", "old.part"))
    try:
        temporary.mkdir(parents=True)
        writer(temporary)
        for file in temporary.iterdir():
            file.chmod(0o666 & ~_umask())
            with open(file, "rb+") as opened:
                os.fsync(opened.fileno())
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
        _flush_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, error) from error
    finally:
        if old.exists() and not folder.exists():  # the new one could not take its place
            os.replace(old, folder)
        for left in (temporary, old):
            shutil.rmtree(left, ignore_errors=True)


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write `data`, as `write_atomic` does."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomic(path, write)


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, as `write_atomic` does."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, data: Any, indent: int | None = 2) -> None:
    """Write `data` as JSON, as `write_atomic` does. numpy's numbers and arrays and paths are fine in it."""
    write_text_atomic(path, json.dumps(data, indent=indent, ensure_ascii=False, default=_plain) + "\n")


def save_torch_atomic(path: str | Path, state: Any) -> None:
    """`torch.save`, as `write_atomic` does. By way of memory: torch turns a full disk into a bare RuntimeError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes_atomic(path, buffer.getvalue())


def save_image_atomic(image: Image.Image, path: str | Path) -> None:
    """Write a picture in the format of its suffix. Raises UserError for a suffix not in `IMAGE_FORMATS`."""
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_FORMATS:
        raise UserError(f"{path}: found picture type {suffix!r}, expected one of {', '.join(IMAGE_FORMATS)}")
    kind, options = IMAGE_FORMATS[suffix]
    buffer = io.BytesIO()
    (image.convert("RGB") if kind == "JPEG" else image).save(buffer, kind, **options)
    write_bytes_atomic(path, buffer.getvalue())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"found {type(value).__name__}, expected what JSON can hold")


def _not_written(path: Path, error: OSError | SafetensorError) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UserError(f"{path}: cannot be written: {reason}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _flush_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(temporary: Path) -> None:
    try:
        temporary.unlink(missing_ok=True)
    except OSError:  # no folder, or none that may be written: then there is no temporary file either
        return
