"""Files that appear whole or not at all: written beside their place, flushed to the disk, then renamed.

A temporary file is `.NAME.16HEX.partSUFFIX`: nobody can guess its name and plant a link there, and what a killed
write has left is known by it.
"""

import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.regular_files import check_regular

UNFINISHED = re.compile(r"\.(?P<stem>.+)\.[0-9a-f]{16}\.part(?P<suffix>\.[^.]*)?")
# What Pillow writes for a suffix. JPEG keeps full colour resolution, or thin coloured contours smear.
IMAGE_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 92, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 92}),
}


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """`data` goes to a temporary file in `path`'s folder, made if need be, which then takes `path`'s place.

    Whatever goes wrong, an older file at `path` stays as it was and the temporary one is removed. A symbolic link at
    `path` is replaced, what it points to stays. Raises UserError with path and reason where the disk is full, writing
    is not permitted, or a folder, pipe or device is at `path`.
    """
    path = Path(path)
    check_regular(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:  # a name that is taken, be it by a link, is an error
            try:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _flush_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def write_folder_atomic(folder: str | Path, writer: Callable[[Path], None]) -> None:
    """`writer` fills a temporary folder beside `folder`; then it takes its place, and an older one there goes.

    Raises UserError as `write_bytes_atomic` does.
    """
    folder = Path(folder)
    temporary, old = _temporary(folder), _temporary(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)  # nobody else's until it is whole
        try:
            writer(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    file.chmod(0o666 & ~_umask())
                    with open(file, "rb+") as opened:
                        os.fsync(opened.fileno())
            temporary.chmod(0o777 & ~_umask())
            if folder.exists():
                os.replace(folder, old)
            os.replace(temporary, folder)
            _flush_folder(folder.parent)
        finally:
            if old.exists() and not folder.exists():  # the new one could not take its place
                os.replace(old, folder)
            for left in (temporary, old):
                shutil.rmtree(left, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise _not_written(folder, error) from error


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: str | Path, data: Any, indent: int | None = 2) -> None:
    """Write `data` as JSON, as `write_bytes_atomic` does. numpy's numbers and arrays and paths are fine in it."""
    write_bytes_atomic(path, encode_json(data, indent))


def encode_json(data: Any, indent: int | None = 2, compact: bool = False) -> bytes:
    """What `write_json_atomic` writes: UTF-8 that ends with a line break. compact: without spaces.

    Half letters, which JSON may hold and UTF-8 may not, are written as the escapes that they came as, as all others
    then are.
    """

    def encoded(escapes: bool) -> bytes:
        separators = (",", ":") if compact else None
        text = json.dumps(data, indent=indent, separators=separators, ensure_ascii=escapes, default=_plain)
        return (text + "\n").encode()

    try:
        return encoded(escapes=False)
    except UnicodeEncodeError:
        return encoded(escapes=True)


def save_torch_atomic(path: str | Path, state: Any) -> None:
    """`torch.save`, as `write_bytes_atomic` does: torch itself turns a full disk into a bare RuntimeError."""
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


def sweep(folder: Path, ours: Callable[[str], bool], age: float = 0.0) -> None:
    """Remove what killed writes left in `folder` of files whose names are `ours`.

    age: seconds since it was last touched; a younger one may still be somebody's. Raises OSError where that is not
    permitted.
    """
    for path in folder.glob(".*.part*"):
        match = UNFINISHED.fullmatch(path.name)
        if match is None or not ours(match["stem"] + (match["suffix"] or "")):
            continue
        try:
            if time.time() - path.lstat().st_mtime >= age:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except FileNotFoundError:  # another was quicker
            continue


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")  # libraries look at the suffix


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
