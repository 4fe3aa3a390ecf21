"""The files of `predict`: a COCO data set of what was found, a list for `loadRes`, pictures that say who made them.

predictions.json is read by pycocotools, torchvision and this tool. Its file names are relative to the pictures' common
folder, which `info.image_root` names as seen from predictions.json; width and height are those of the upright picture.
results.json holds the same masks with the same ids as COCO results, without boxes, or `loadRes` would take sizes from
them. Both are rewritten whole as the work goes on, so that they can be read whenever it ends.
"""

import hashlib
import io
import json
import os
import re
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.checksums import hash_if_file
from mask_frozen_detr.machine.files import encode_json, write_bytes_atomic
from mask_frozen_detr.results.instances import Instances

PREDICTIONS_FILE, RESULTS_FILE = "predictions.json", "results.json"
MADE_BY = "mask-frozen-detr predict"
FORMAT = 1
MOST_JPEG_SIDE = 65_500  # pixels, libjpeg's
JPEG_QUALITY = 90  # with whole colours, or thin outlines fray
SHARE_FOR_WRITING = 0.05  # of the time: all is rewritten at each step, so the more there is the less often


@dataclass(frozen=True)
class Predicted:
    """One picture: absolute path, sha256 of its bytes, size upright, what its overlay is called, what was found."""

    path: Path
    sha256: str
    width: int
    height: int
    name: str  # of the pictures drawn of it, without suffix
    found: tuple[dict[str, Any], ...]  # category_id, bbox, area, iscrowd, segmentation, score


def describe_found(instances: Instances) -> tuple[dict[str, Any], ...]:
    """Entries of a COCO data set without ids; class indices stand as category ids, the area is the mask's."""
    entries = instances.to_coco(0)
    areas = [int(np.count_nonzero(crop.values)) for crop in instances.crops]
    keys = ("category_id", "bbox", "segmentation", "score")
    return tuple(
        {**{key: entry[key] for key in keys}, "area": area, "iscrowd": 0}
        for entry, area in zip(entries, areas, strict=True)
    )


class PredictionFiles:
    """predictions.json and results.json of one folder, and what they hold.

    settings: all that decides what is found. number: of this process among several; those but the first keep their
    share in a file of their own, which the first takes over at the end. Raises UserError where the folder holds files
    of these names that `predict` did not write.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        class_names: Sequence[str],
        number: int = 0,
        processes: int = 1,
    ):
        self.folder, self.settings, self.class_names = folder, json.loads(json.dumps(settings)), list(class_names)
        self.first = number == 0
        self.file = folder / _name_of_share(number)
        self.results = folder / RESULTS_FILE
        self.pictures: dict[Path, Predicted] = {}
        self.changed: list[str] = []  # settings that an earlier call had otherwise
        self._results_hash: str | None = None  # of results.json as it lies there
        self._written, self._cost, self._unsaved = time.monotonic(), 0.0, False
        self._several_hashes = False
        for other in range(1, processes):  # in each process, or one would wait for another that has gone
            self._read(folder / _name_of_share(other))
        earlier = self._read(folder / PREDICTIONS_FILE)
        if os.path.lexists(self.results):
            self._results_hash = hash_if_file(self.results)
            if earlier is None or self._results_hash not in earlier["info"]["results_sha256"]:
                raise UserError(_foreign(self.results))
        if earlier is not None:
            self._take(earlier)
        for path in self.parts():
            self._take(json.loads(path.read_text(encoding="utf-8")))
            self._unsaved = True

    def parts(self) -> list[Path]:
        """Files in which other processes have left their share."""
        return [
            path
            for path in sorted(self.folder.glob("predictions-*.json"))
            if re.fullmatch(r"predictions-\d+\.json", path.name) and self._read(path, ours_alone=True)
        ]

    def is_done(self, path: Path) -> bool:
        """Whether an earlier call has done the picture, and it is still the same."""
        known = self.pictures.get(path)
        return known is not None and known.sha256 == hash_picture(path)

    def add(self, predicted: Predicted) -> None:
        self.pictures[predicted.path] = predicted
        self._unsaved = True

    def drop(self, path: Path) -> None:
        """What an earlier call found in a picture that now fails is not of it any more."""
        if self.pictures.pop(path, None) is not None:
            self._unsaved = True

    def save_if_due(self, root: Path) -> None:
        """`save`, but seldom enough to cost little time."""
        if self._cost <= SHARE_FOR_WRITING * (time.monotonic() - self._written):
            self.save(root)

    def finish(self, root: Path, order: Iterable[Path]) -> None:
        """`save`, so that the files say nothing of how often they were written, and without other processes' shares."""
        self.save(root, order := list(order))
        if self._several_hashes:
            self._unsaved = True
            self.save(root, order)
        for part in self.parts():
            part.unlink(missing_ok=True)

    def save(self, root: Path, order: Iterable[Path] = ()) -> None:
        """Write both files, if there is anything new. root: what file names are relative to. order: of the pictures.

        Raises UserError where they cannot be written.
        """
        if not self._unsaved:
            return
        start = time.monotonic()
        ranks = {path: rank for rank, path in enumerate(order)}
        pictures = sorted(self.pictures.values(), key=lambda one: (ranks.get(one.path, len(ranks)), one.path))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id, one in enumerate(pictures, 1):
            images.append(
                {
                    "id": image_id,
                    "file_name": Path(os.path.relpath(one.path, root)).as_posix(),
                    "width": one.width,
                    "height": one.height,
                    "sha256": one.sha256,
                    "overlay": one.name,
                }
            )
            annotations += [
                {"id": len(annotations) + k, "image_id": image_id, **entry} for k, entry in enumerate(one.found, 1)
            ]
        keys = ("image_id", "category_id", "segmentation", "score")
        results = encode_json([{key: entry[key] for key in keys} for entry in annotations], indent=None, compact=True)
        new = hashlib.sha256(results).hexdigest()
        hashes = list(dict.fromkeys(known for known in (new, self._results_hash) if known))  # a kill may come between
        self._several_hashes = len(hashes) > 1
        info = {
            "description": f"Instance masks by {MADE_BY}. Pictures lie in image_root, as seen from this file; sizes "
            "and masks are of the upright picture, turned as its EXIF data says.",
            "made_by": MADE_BY,
            "format": FORMAT,
            "image_root": image_root(root, self.folder),
            "settings": self.settings,
            "results_sha256": hashes,
        }
        categories = self._categories(annotations)
        content = {"info": info, "images": images, "categories": categories, "annotations": annotations}
        write_bytes_atomic(self.file, encode_json(content, indent=None, compact=True))
        if self.first:
            write_bytes_atomic(self.results, results)
            self._results_hash = new
        self._unsaved = False
        self._written = time.monotonic()
        self._cost = self._written - start

    def _categories(self, annotations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """All classes with a name, and those without one that occur; all, if there is no other."""
        used = {entry["category_id"] for entry in annotations}
        every: list[dict[str, Any]] = [
            {"id": index, "name": name or str(index)} for index, name in enumerate(self.class_names)
        ]
        return [one for one in every if self.class_names[one["id"]] or one["id"] in used] or every

    def _read(self, path: Path, ours_alone: bool = False) -> dict[str, Any] | None:
        """What `save` wrote, or None where there is nothing, or with `ours_alone` something else."""
        if not os.path.lexists(path):
            return None
        try:
            if path.is_symlink() or not path.is_file():
                raise ValueError("is no file")
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["info"]["made_by"] != MADE_BY or content["info"]["format"] != FORMAT:
                raise ValueError("is of another program or version")
            if not (isinstance(content["info"]["settings"], dict) and content["info"]["results_sha256"]):
                raise ValueError("is damaged")
            return content
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if ours_alone:
                return None
            raise UserError(_foreign(path)) from error

    def _take(self, content: dict[str, Any]) -> None:
        settings = content["info"]["settings"]
        if settings != self.settings:
            self.changed += [
                f"{key} was {printable(str(settings.get(key)), 40)}"
                for key in self.settings
                if settings.get(key) != self.settings[key]
            ]
            return
        try:
            root = self.folder / content["info"]["image_root"]
            found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
            for entry in content["annotations"]:
                kept = {key: value for key, value in entry.items() if key not in ("id", "image_id")}
                found[entry["image_id"]].append(kept)
            for image in content["images"]:
                path = Path(os.path.abspath(root / image["file_name"]))
                size = image["width"], image["height"]
                self._unsaved |= not path.is_file()
                if path.is_file():
                    one = Predicted(path, image["sha256"], *size, image["overlay"], tuple(found[image["id"]]))
                    self.pictures[path] = one
        except (KeyError, TypeError, AttributeError):  # edited since: done anew
            self.pictures.clear()


def _name_of_share(number: int) -> str:
    return f"predictions-{number}.json" if number else PREDICTIONS_FILE


def hash_picture(path: Path) -> str:
    """sha256 of a file's bytes. Raises UserError for what is no file: a pipe would never end."""
    found = hash_if_file(path)
    if found is None:
        raise UserError(f"{printable(str(path))}: is no file that can be read, expected a picture")
    return found


def save_own_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG or JPEG that says who made it, so that it is neither taken for an input nor for anybody else's.

    The suffix says which. Raises UserError for a JPEG of more pixels a side than there can be, or an unwritable file.
    """
    buffer = io.BytesIO()
    if path.suffix == ".png":
        made_by = PngInfo()
        made_by.add_text("Software", MADE_BY)
        # The fastest: searching photos for repeated strings takes a quarter of the time, and saves nothing.
        picture.save(buffer, "PNG", pnginfo=made_by, compress_level=1, compress_type=zlib.Z_RLE)
    else:
        if max(picture.size) > MOST_JPEG_SIDE:
            raise UserError(
                f"its overlay has {picture.width} × {picture.height} pixels, of which a JPEG takes {MOST_JPEG_SIDE} a "
                "side; expected png as the overlay format"
            )
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0, comment=MADE_BY)
    write_bytes_atomic(path, buffer.getvalue())


def is_own_picture(path: Path) -> bool:
    """Whether `save_own_picture` wrote the file."""
    if path.suffix.lower() not in (".png", ".jpg") or not path.is_file():
        return False
    try:
        with Image.open(path) as picture:
            return picture.info.get("Software") == MADE_BY or picture.info.get("comment") == MADE_BY.encode()
    except Exception:  # no picture, damaged, too large: not ours
        return False


def image_root(root: Path, folder: Path) -> str:
    """The pictures' common folder `root` as seen from a file in `folder`: what a data set notes of it."""
    try:
        return Path(os.path.relpath(root, folder)).as_posix()
    except ValueError:  # Windows, another drive
        return str(root)


def _foreign(path: Path) -> str:
    return (
        f"{printable(str(path))}: is there already and was not written by this version of predict, so it stays as it "
        "is; name another --output, or move it"
    )
