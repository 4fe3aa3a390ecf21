"""A folder of files that were all written here: a list with checksums tells them from others, which stay."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.checksums import hash_if_file
from mask_frozen_detr.machine.files import sweep, write_bytes_atomic, write_json_atomic

LIST_FILE = ".written-by-mask-frozen-detr"
MADE_BY = "mask-frozen-detr predict"


class OwnFolder:
    """The folder and its list. Raises UserError where it holds something and no list, or a damaged one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.list = folder / LIST_FILE
        self.known: dict[str, list[str]] = {}  # relative path to the checksums that it may have
        if os.path.lexists(self.list):
            self.known = self._read()
        elif folder.is_symlink() or (os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))):
            raise UserError(
                f"{printable(str(folder))}: is there already and was not written by predict, so it stays as it is; "
                "name another --output, or move it"
            )

    def check(self) -> None:
        """Raises UserError where a file has been edited since it was written: it would be lost."""
        for name, sums in self.known.items():
            if os.path.lexists(self.folder / name) and _sum(self.folder / name) not in sums:
                raise UserError(
                    f"{printable(str(self.folder / name))}: has been edited since predict wrote it, so it stays as it "
                    "is; name another --output, or move it"
                )

    def write(self, files: Mapping[str, bytes | Path]) -> None:
        """The folder's new content: relative path to bytes, or to a file that a link shall lead to.

        What was written before and is not among them goes. A kill at any moment leaves files that the list knows.
        Raises UserError where something would be replaced that was not written here, and where the disk is full.
        """
        self.check()
        new = {name: _sum_of(content) for name, content in files.items()}
        for name in new.keys() - self.known.keys():
            if os.path.lexists(self.folder / name):
                raise UserError(
                    f"{printable(str(self.folder / name))}: is there already and was not written by predict, so it "
                    "stays as it is; name another --output, or move it"
                )
        until_then = {name: [one] for name, one in new.items()}
        for name, sums in self.known.items():
            until_then[name] = list(dict.fromkeys([*until_then.get(name, []), *sums]))
        if until_then != self.known:
            self._save(until_then)
        for name, content in files.items():
            path = self.folder / name
            if _sum(path) == new[name]:
                continue
            if isinstance(content, bytes):
                write_bytes_atomic(path, content)
            else:
                new[name] = _link(path, content)
        for name in self.known.keys() - new.keys():
            (self.folder / name).unlink(missing_ok=True)
        for folder in {(self.folder / name).parent for name in new}:
            sweep(folder, lambda name: True)
        if self.known != (now := {name: [one] for name, one in new.items()}):
            self._save(now)

    def _read(self) -> dict[str, list[str]]:
        try:
            content: Any = json.loads(self.list.read_text(encoding="utf-8"))
            files = content["files"]
            if content["made_by"] != MADE_BY or any(_leads_out(name) for name in files):
                raise ValueError
            return {name: [str(one) for one in sums] for name, sums in files.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f"{printable(str(self.list))}: is damaged, so what predict wrote here cannot be told from other "
                "files; name another --output, or move the folder"
            ) from None

    def _save(self, files: dict[str, list[str]]) -> None:
        self.known = files
        content = {"made_by": MADE_BY, "files": dict(sorted(files.items()))}
        write_json_atomic(self.list, content, indent=None)


def _leads_out(name: str) -> bool:
    return Path(name).is_absolute() or ".." in Path(name).parts


def _link(path: Path, target: Path) -> str:
    """A link, or a copy where the system has no links; returns its checksum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(target)
    except OSError:
        write_bytes_atomic(path, target.read_bytes())
    return _sum(path) or ""


def _sum_of(content: bytes | Path) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else f"link to {content}"


def _sum(path: Path) -> str | None:
    """sha256 of a file, of a link where it leads; None of what is neither."""
    try:
        if path.is_symlink():
            return f"link to {os.readlink(path)}"
    except OSError:
        return None
    return hash_if_file(path)
