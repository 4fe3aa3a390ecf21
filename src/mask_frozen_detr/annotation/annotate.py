"""`mask-frozen-detr annotate`: the boxes of a data set get masks, and what has masks keeps them."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mask_frozen_detr.annotation.document import Document, OpenPicture
from mask_frozen_detr.annotation.labelled_file import LabelledFile
from mask_frozen_detr.annotation.review import check_review, write_review
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.errors import UserError, about, printable, reason, shorten
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.prediction_files import hash_picture


@dataclass
class Annotated:
    """What came of it.

    problems: of pictures on which something failed, by their ids. unknown: boxes of classes that the detector lacks, by
    name. kept: pictures of an earlier call.
    """

    document: Document
    file: LabelledFile
    problems: dict[int, str] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    review: str = ""

    @property
    def masks(self) -> int:
        """How many have been added."""
        done = [picture for picture in self.document.open if picture.record.id not in self.problems]
        return sum(len(picture.places) for picture in done) - len(self.file.empty)

    def summary(self) -> str:
        """A line of counts, then one for each kind of thing that was left out."""
        document = self.document
        lines = [
            f"{self.masks} of {document.boxes} boxes have masks now, beside {document.had_masks} that were there, in "
            f"{printable(str(self.file.path))}"
        ]
        if self.kept:
            lines.append(f"{self.kept} of {len(document.open)} pictures had been done before")
        if self.file.changed:
            lines.append(f"all made anew, since other than in the last call: {shorten(self.file.changed)}")
        if self.file.empty:
            lines.append(f"no mask: {len(self.file.empty)} × not one pixel found in the box")
        lines += [f"left out: {count} × {fault}" for fault, count in document.left_out.most_common()]
        if document.rectangles and not document.redraw:
            lines.append(
                f"kept: {document.rectangles} × mask that is nothing but its box; --redraw-rectangles gives them masks"
            )
        if self.unknown:
            names = shorten(f"{printable(name, 40)} ({count})" for name, count in self.unknown.most_common())
            lines.append(f"classes that the detector does not know, masks made all the same: {names}")
        lines += [f"skipped: {problem}" for problem in self.problems.values()]
        lines += [self.review] if self.review else []
        return "\n".join(lines)


def annotate(
    model: MaskFrozenDetr,
    data: CocoData,
    output: Path,
    redraw_rectangles: bool = False,
    review: int = 0,
    careful: bool = True,
) -> str:
    """Masks for the boxes of `data` that have none, written into `output`, a COCO data set; returns a short report.

    Everything else of the data is kept as it is, see `Document`. Each mask carries a guess of how good it is (of
    its IoU with the true one) as `mask_quality`. redraw_rectangles: masks that are nothing but their box get new ones.
    review: so many of the most doubtful are listed beside the output, see `review`. careful: as `predict` takes it.

    Called again it goes on where it ended, as long as data, pictures and model are the same. A picture on which
    anything fails is named and left out.
    Raises UserError where no box lacks a mask, no picture can be used, or `output` is somebody else's.
    """
    if processes().num_processes > 1:
        raise UserError("annotate: found several processes, expected one; start it without accelerate or torchrun")
    document = Document(data, redraw_rectangles)
    if not document.boxes:
        faults = "".join(f"; {count} × {fault}" for fault, count in document.left_out.most_common())
        raise UserError(
            f"{data.annotation_file}: no box that lacks a mask ({document.had_masks} objects have one{faults})"
        )
    settings = {**model.fingerprint(), "redraw_rectangles": redraw_rectangles, "careful": careful}
    result = Annotated(document, LabelledFile(output, document, settings))
    if review:
        check_review(result.file)
    index_of = _classes(model, data)
    for picture in document.open:
        named = [category for category in picture.categories if category is not None]
        result.unknown.update(data.categories.get(category, "?") for category in named if category not in index_of)
    _annotate_due(model, data, index_of, result, careful)
    if len(result.problems) == len(document.open):
        raise UserError("no picture could be used:\n" + "\n".join(result.problems.values()))
    result.file.save()
    if review:
        result.review = write_review(result.file, data.categories, review)
    return result.summary()


def _classes(model: MaskFrozenDetr, data: CocoData) -> dict[int, int]:
    """Category id → class index; none at all where the detector knows no category of the data."""
    try:
        return classes_of(data, model.detector.info.class_names, model.classes).index_of
    except UserError:
        return {}


def _annotate_due(
    model: MaskFrozenDetr, data: CocoData, index_of: dict[int, int], result: Annotated, careful: bool
) -> None:
    """Masks for the pictures that no earlier call has done; saved on the way, and where all breaks off."""
    pictures = result.document.open
    due = [picture for picture in pictures if not _is_done(result.file, picture)]
    result.kept = len(pictures) - len(due)
    bar = Progress("annotating", len(pictures))
    bar.start(result.kept)
    try:
        for number, picture in enumerate(due, result.kept + 1):
            with _told(result.problems, picture):
                _annotate_picture(model, data, index_of, result.file, picture, careful)
            result.file.save_if_due()
            bar.update(number)
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is the one to tell
            result.file.save()
        raise
    bar.close()


def _is_done(file: LabelledFile, picture: OpenPicture) -> bool:
    try:
        return file.is_done(picture)
    except UserError:  # it cannot be read: trying will say so
        return False


def _annotate_picture(
    model: MaskFrozenDetr,
    data: CocoData,
    index_of: dict[int, int],
    file: LabelledFile,
    picture: OpenPicture,
    careful: bool,
) -> None:
    digest = hash_picture(picture.record.path)
    image = open_picture(picture.record, picture.record.orientation)
    labels = [
        None if category is None else index_of.get(category, data.categories.get(category))
        for category in picture.categories
    ]
    instances = model.predict(image, boxes=picture.boxes, labels=labels, careful=careful)
    file.empty.difference_update(picture.places)
    for place, crop, rle, score in zip(
        picture.places, instances.crops, instances.to_rle(), instances.scores, strict=True
    ):
        area = int(np.count_nonzero(crop.values))
        if area:
            file.document.add(place, rle, area, float(score))
        else:
            file.empty.add(place)
    file.add(picture, digest)


@contextlib.contextmanager
def _told(problems: dict[int, str], picture: OpenPicture) -> Iterator[None]:
    """One bad picture is one line, whatever fails on it."""
    try:
        yield
    except Exception as error:
        problems[picture.record.id] = about(picture.record.path, reason(error))
