"""Only regular files are read and replaced: a pipe would be waited for, a device never ends, a folder is no content."""

import errno
import stat
from pathlib import Path

from mask_frozen_detr.errors import UserError, printable


def check_regular(path: str | Path, expected: str = "a regular file") -> None:
    """Raises UserError where something else than a regular file is at `path`, or a link to it, to itself or to nothing.

    Where nothing is, or what may not be looked at, no error is raised: reading or writing tells that better.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError, RuntimeError) as error:
        # RuntimeError: Python before 3.13, of links that lead back to themselves.
        if isinstance(error, RuntimeError) or getattr(error, "errno", None) == errno.ELOOP:
            raise UserError(f"{_named(path)}: is a link that leads back to itself, expected {expected}") from None
        if isinstance(error, FileNotFoundError) and Path(path).is_symlink():  # the user's, which writing would replace
            raise UserError(f"{_named(path)}: is a link to nothing, expected {expected}") from None
        return
    if stat.S_ISDIR(mode):
        raise UserError(f"{_named(path)}: is a folder, expected {expected}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{_named(path)}: is a pipe or a device, expected {expected}")


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """All bytes of a regular file of at most `limit` bytes.

    Raises UserError, before memory is taken, for what is no regular file or larger; OSError where it cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        if limit is None:
            return file.read()
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{_named(path)}: found more than {limit:,} bytes, expected at most so many")
    return content


def _named(path: str | Path) -> str:
    return printable(str(path), 1000)
