"""A folder that one process works in at a time: a lock file in it, which the system lets go when that process dies."""

import errno
import os
import sys
import warnings
from pathlib import Path
from typing import BinaryIO

from mask_frozen_detr.errors import UserError

LOCK_FILE = ".mask-frozen-detr.lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems
_held: set["FolderLock"] = set()


class FolderLock:
    """Taken by making one; `release` gives it back, `check` says whether the folder is still there.

    Processes forked meanwhile (loader workers) do not inherit it, so it ends with its holder whatever becomes of them.
    On a file system without locks a warning is given instead.
    Raises UserError where another process, or this one, holds it already, and where the folder cannot be made.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / LOCK_FILE
        self.made_folder = not folder.exists()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.made_file = not self.path.exists()
            while True:
                self.file = _open(self.path)
                _lock(self.file, folder)
                if self._in_place():
                    break
                self.file.close()  # its last holder has just removed it
        except OSError as error:
            raise UserError(f"{folder}: cannot work in this folder: {error.strerror}") from error
        _held.add(self)

    def check(self) -> None:
        """Raises UserError where the folder has been removed, moved or replaced."""
        if not self._in_place():
            raise UserError(
                f"{self.folder}: the folder was removed, moved or replaced while it was written to; what is left of it "
                "cannot be gone on with"
            )

    def release(self, keep_file: bool = False) -> None:
        """Lets others in. keep_file: the lock file stays, as it was there before."""
        if not keep_file and self._in_place():
            self.path.unlink(missing_ok=True)
        self.file.close()
        _held.discard(self)
        if self.made_folder:
            try:
                self.folder.rmdir()
            except OSError:  # there is something in it, as there should be
                return

    def _in_place(self) -> bool:
        try:
            there, ours = os.lstat(self.path), os.fstat(self.file.fileno())
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _open(path: Path) -> BinaryIO:
    """Made if need be; a symbolic link is an error."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666), "rb")


def _lock(file: BinaryIO, folder: Path) -> None:
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 20)  # a place that is never written: what is locked nobody else may read
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            warnings.warn(
                f"{folder}: its file system has no locks ({error.strerror}); let no other run write there", stacklevel=3
            )
            return
        file.close()
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            raise
        raise UserError(
            f"{folder}: another run or `predict` is working in it; wait for its end, or give another --output"
        ) from error


def _let_go() -> None:
    """Closes a forked process's copies of the locks, which leaves those of its parent."""
    for lock in _held:
        lock.file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
