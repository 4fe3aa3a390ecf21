"""The file that `annotate` writes: whole at any time, known as its own, and taken up again by the next call."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mask_frozen_detr.annotation.document import ADDED, QUALITY, Document, OpenPicture
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.checksums import hash_content, hash_if_file
from mask_frozen_detr.machine.files import encode_json, write_bytes_atomic
from mask_frozen_detr.results.prediction_files import hash_picture, image_root

MADE_BY = "mask-frozen-detr annotate"
MARK = "annotated"  # the key of "info" that says so
FORMAT = 1
SHARE_FOR_WRITING = 0.05  # of the time: all is rewritten at each step, so the more there is the less often


class LabelledFile:
    """A document on its way into a file.

    settings: all that decides how masks come out. With those of an earlier call, and the same data, its masks are kept.
    changed: what was otherwise, where nothing is kept. empty: places of entries of which no pixel was found.
    Raises UserError where there is a file that `annotate` did not write, or the data's own.
    """

    def __init__(self, path: Path, document: Document, settings: Mapping[str, Any]):
        self.path, self.document = path, document
        self.settings = {**json.loads(json.dumps(settings)), "data": hash_content(document.content)}
        self.changed: list[str] = []
        self.empty: set[int] = set()
        self._pictures: dict[str, str] = {}  # id to sha256 of those that are done
        self._beside: dict[str, list[str]] = {}  # name of a review's file to its sha256, or what it may be
        self._written, self._cost, self._unsaved = time.monotonic(), 0.0, True
        earlier = self._read()
        if earlier is not None:
            self._take(earlier)

    def is_done(self, picture: OpenPicture) -> bool:
        """Whether an earlier call has done it, and it is still the same."""
        known = self._pictures.get(str(picture.record.id))
        return known is not None and known == hash_picture(picture.record.path)

    def add(self, picture: OpenPicture, digest: str) -> None:
        """A picture's masks are in the document."""
        self._pictures[str(picture.record.id)] = digest
        self._unsaved = True

    def save_if_due(self) -> None:
        """`save`, but seldom enough to cost little time."""
        if self._cost <= SHARE_FOR_WRITING * (time.monotonic() - self._written):
            self.save()

    def save(self) -> None:
        """Write the file, if there is anything new. Raises UserError where that is not possible."""
        if not self._unsaved:
            return
        start = time.monotonic()
        content = self.document.content
        info = {
            **(content.get("info") or {}),
            "image_root": image_root(self.document.root, self.path.absolute().parent),
            MARK: {
                "made_by": MADE_BY,
                "format": FORMAT,
                "settings": self.settings,
                "pictures": self._pictures,
                "empty": sorted(self.empty),
                "beside": self._beside,
            },
        }
        written = {**content, "info": info}
        info[MARK]["sha256"] = hash_content(written)
        write_bytes_atomic(self.path, encode_json(written, indent=None, compact=True))
        self._unsaved = False
        self._written = time.monotonic()
        self._cost = self._written - start

    def check_beside(self, path: Path) -> None:
        """Raises UserError where there is a file of a review at `path` that is not as `write_beside` left it."""
        if os.path.lexists(path) and (
            path.is_symlink() or hash_if_file(path) not in self._beside.get(self._name(path), ())
        ):
            raise UserError(
                f"{printable(str(path))}: is there already and is not as annotate wrote it, so it stays as it is; name "
                "another --output, or move it"
            )

    def write_beside(self, files: Mapping[Path, bytes]) -> None:
        """Write the files of a review; those of an earlier one go, unless somebody has edited them.

        Raises UserError as `check_beside` does, before anything is written.
        """
        for path in files:
            self.check_beside(path)
        new = {self._name(path): [hashlib.sha256(content).hexdigest()] for path, content in files.items()}
        earlier = self._beside
        self._beside = {name: earlier.get(name, []) + new.get(name, []) for name in {**earlier, **new}}
        self._unsaved = True
        self.save()  # before them: a kill in between leaves files that are known
        for path, content in files.items():
            write_bytes_atomic(path, content)
        for name in earlier.keys() - new.keys():
            path = self.path.parent / name
            if not path.is_symlink() and hash_if_file(path) in earlier[name]:
                path.unlink()
        self._beside = new
        self._unsaved = True
        self.save()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.path.parent).as_posix()

    def _read(self) -> dict[str, Any] | None:
        if not os.path.lexists(self.path):
            return None
        if os.path.realpath(self.path) == os.path.realpath(self.document.source):
            raise UserError(f"{self.path}: is the data itself, which stays as it is; name another --output")
        try:
            if self.path.is_symlink() or not self.path.is_file():
                raise ValueError("is no file")
            content = json.loads(self.path.read_text(encoding="utf-8"))
            mark = content["info"][MARK]
            if (mark["made_by"], mark["format"]) != (MADE_BY, FORMAT):
                raise ValueError("is of another program or version")
            if mark.pop("sha256") != hash_content(content):
                raise ValueError("was edited since")
            return content
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{printable(str(self.path))}: is there already and is not as this version of annotate wrote it, so "
                "it stays as it is; name another --output, or move it"
            ) from error

    def _take(self, earlier: dict[str, Any]) -> None:
        """The masks of an earlier call, if it was the same data and the same model."""
        mark = earlier["info"][MARK]
        self._beside = mark["beside"]
        self.changed = [key for key, value in self.settings.items() if mark["settings"].get(key) != value]
        if self.changed:
            return
        pictures = {str(picture.record.id): picture for picture in self.document.open}
        self._pictures, self.empty = mark["pictures"], set(mark["empty"])
        for image_id in self._pictures:
            for place in pictures[image_id].places:
                found = earlier["annotations"][place]
                if QUALITY in found:
                    self.document.entry(place).update({key: found[key] for key in ADDED})
