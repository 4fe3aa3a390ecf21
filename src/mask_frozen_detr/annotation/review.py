"""The masks that are most doubtful, first: as a page to look at and as pre-annotations to correct.

Pre-annotations hold every object of the pictures that the doubtful masks are in, so that a picture is whole when it
comes back from the labelling tool.
"""

import contextlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mask_frozen_detr.annotation.document import QUALITY, Document, OpenPicture, is_box
from mask_frozen_detr.annotation.labelled_file import MADE_BY, LabelledFile
from mask_frozen_detr.annotation.review_page import Doubt, render_page, show_doubt
from mask_frozen_detr.data.formats.coco import NO_CLASS
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.data.validation import whole
from mask_frozen_detr.errors import UserError, printable
from mask_frozen_detr.machine.files import encode_json
from mask_frozen_detr.results.exports.label_studio import task
from mask_frozen_detr.results.exports.labelme import labelled
from mask_frozen_detr.results.exports.regions import Region, polygons_of


@dataclass(frozen=True)
class ReviewPlaces:
    """Where the parts of a review lie, beside the labelled file: X.json gives X.review.html and so on."""

    page: Path
    label_studio: Path
    labelme: Path

    @classmethod
    def beside(cls, file: Path) -> "ReviewPlaces":
        stem = file.name.removesuffix(".json")
        return cls(*(file.with_name(f"{stem}.review{end}") for end in (".html", ".label-studio.json", ".labelme")))


def check_review(file: LabelledFile) -> None:
    """Raises UserError where the page or the pre-annotations would replace somebody else's file: before the work."""
    places = ReviewPlaces.beside(file.path)
    file.check_beside(places.page)
    file.check_beside(places.label_studio)
    if os.path.lexists(places.labelme) and (places.labelme.is_symlink() or not places.labelme.is_dir()):
        raise UserError(f"{printable(str(places.labelme))}: is there already and no folder; name another --output")


def write_review(file: LabelledFile, categories: Mapping[int, str], most: int) -> str:
    """Write the `most` doubtful of the masks that were added; returns where they are. Called when all masks are there.

    Raises UserError where a file of that name is somebody else's, or was edited.
    """
    document, places = file.document, ReviewPlaces.beside(file.path)
    page: list[Doubt] = []
    pictures: dict[int, OpenPicture] = {}
    for picture, place in _most_doubtful(file, most):
        record = picture.record
        with contextlib.suppress(Exception):  # it has gone since, or is too much for what draws it
            region, number = _region(document.entry(place), categories), document.entry(place).get("id")
            page.append(show_doubt(open_picture(record, record.orientation), region, f"{record.path}, object {number}"))
            pictures[record.id] = picture
    tasks: list[dict[str, Any]] = []
    files: dict[Path, bytes] = {}
    for picture in pictures.values():
        regions = sorted(_regions_of(picture, document, categories), key=_doubt)
        path, size = picture.record.path.absolute(), (picture.record.width, picture.record.height)
        served = Path(os.path.relpath(path, document.root)).as_posix()
        tasks.append(task(served, *size, regions, MADE_BY))
        beside = os.path.relpath(path, places.labelme.absolute())
        files[_labelme_place(places.labelme, path, files)] = encode_json(labelled(beside, *size, regions), indent=1)
    files[places.label_studio] = encode_json(tasks, indent=1)
    files[places.page] = render_page(page, file.path.name, document.boxes - len(file.empty)).encode()
    file.write_beside(files)
    return f"the {len(page)} most doubtful: {places.page}, {places.label_studio.name} and {places.labelme.name}"


def _most_doubtful(file: LabelledFile, most: int) -> list[tuple[OpenPicture, int]]:
    """The most doubtful masks: those without any pixel first, then the worst."""
    found = []
    for picture in file.document.open:
        for place in picture.places:
            if place in file.empty:
                found.append((0.0, place, picture))
            elif QUALITY in file.document.entry(place):
                found.append((file.document.entry(place)[QUALITY], place, picture))
    found.sort(key=lambda one: one[:2])
    return [(picture, place) for _, place, picture in found[:most]]


def _regions_of(picture: OpenPicture, document: Document, categories: Mapping[int, str]) -> list[Region]:
    """The objects of a picture that had a mask before, and those that were asked for one."""
    before = [
        Region(categories[one.category_id], one.bbox, polygons_of(one.segmentation))
        for one in picture.record.annotations
        if one.segmentation is not None and not (document.redraw and is_box(one.segmentation, one.bbox))
    ]
    return before + [_region(document.entry(place), categories) for place in picture.places]


def _region(entry: Mapping[str, Any], categories: Mapping[int, str]) -> Region:
    category = whole(entry.get("category_id"))
    name = NO_CLASS if category is None else categories.get(category, str(category))
    x, y, w, h = entry["bbox"]
    if QUALITY not in entry:
        return Region(name, (x, y, w, h), [], score=0.0, note="mask quality 0.00")
    quality = entry[QUALITY]
    return Region(name, (x, y, w, h), polygons_of(entry["segmentation"]), quality, f"mask quality {quality:.2f}")


def _doubt(region: Region) -> float:
    return math.inf if region.score is None else region.score


def _labelme_place(folder: Path, picture: Path, taken: dict[Path, Any]) -> Path:
    """NAME.json, as LabelMe looks for it; of several pictures of one name the later ones are numbered."""
    path, count = folder / f"{picture.stem}.json", 1
    while path in taken:
        count += 1
        path = folder / f"{picture.stem}-{count}.json"
    return path
