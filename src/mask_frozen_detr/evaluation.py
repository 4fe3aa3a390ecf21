"""COCO box and mask AP of a model (all 12 figures each), overall and by class.

Images are segmented and encoded one by one; what is kept of each is its run-length-encoded masks, so memory does not
grow with resolution, only by some kilobytes an image.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import Dataset

from mask_frozen_detr.data.class_choice import choose_classes
from mask_frozen_detr.data.classes import ClassMap, classes_of
from mask_frozen_detr.data.coco import MISSING_PICTURE, UNREADABLE_PICTURE, CocoData, ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.errors import UserError, printable, reason
from mask_frozen_detr.machine.files import encode_json, write_json_atomic
from mask_frozen_detr.machine.loaders import Watched
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.machine.regular_files import check_regular
from mask_frozen_detr.results.coco_results import BOX_KEYS, KINDS, MASK_KEYS, coco_results, coco_truth
from mask_frozen_detr.results.evaluation_record import (
    Evaluation,
    LeftOut,
    check_evaluation_file,
    read_evaluation,
    write_evaluation,
)
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.predictor import Predictor
from mask_frozen_detr.results.scoring import Scores, metric_names, score, scorer_name

__all__ = [
    "METRICS",
    "Evaluation",
    "LeftOut",
    "Measured",
    "check_evaluation_file",
    "check_results_files",
    "evaluate",
    "measure",
    "read_evaluation",
    "results_files",
    "write_evaluation",
]

METRICS = metric_names()


@dataclass(frozen=True)
class Measured:
    """An evaluation, and what it was made from.

    classes: which detector class is which category. images: those that the figures are of. entries: COCO results with
    boxes, masks and both scores: "score" is the mask's, "class_score" the detector's.
    """

    evaluation: Evaluation
    classes: ClassMap
    categories: dict[int, str]
    images: list[ImageRecord]
    entries: list[dict[str, Any]]
    box: Scores
    mask: Scores


class EvaluationImages(Dataset[tuple[int, Any, str]]):
    """Images as the detector wants them, unpadded; None and the reason for those on which something fails."""

    def __init__(self, images: Sequence[ImageRecord], preprocessing: Callable[[Image.Image], Any]):
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        record = self.images[index]
        try:
            image = open_picture(record, record.orientation)
            return index, self.preprocessing(image), ""
        except Exception as error:  # one bad picture is one line, whatever fails on it
            return index, None, _problem(record, error)


def evaluate(
    model: Predictor,
    data: CocoData,
    batch: int = 1,
    workers: int = 0,
    max_detections: int | None = None,
    score_threshold: float = 0.0,
    results_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run `model` over `data` and score boxes and masks: `measure`, and of that the figures alone."""
    return measure(model, data, batch, workers, max_detections, score_threshold, results_file, progress).evaluation


def measure(
    model: Predictor,
    data: CocoData,
    batch: int = 1,
    workers: int = 0,
    max_detections: int | None = None,
    score_threshold: float = 0.0,
    results_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Run `model`, a run in torch or an exported one, over `data` and score boxes and masks.

    max_detections: detections an image; None takes what the model was trained with, COCO's 100 if nothing else. More
        than 100 are counted, too, and the recall at so many is named by their number.
    score_threshold: class scores at most this are left out, which is faster and may cost AP.
    results_file: where to write COCO results as the test server takes them, boxes and masks apart: see `results_files`.
    progress: called with (images done, images in all).

    Images on which anything fails are named in the result and left out of it. Objects without a mask count as boxes;
    of masks, what is found within their boxes is ignored, as with crowds. Under `accelerate launch` or `torchrun`
    every process takes its share of the images and gets the same result; the first one writes and reports progress,
    as if all were as far as it is.
    Raises UserError where no class fits, no image can be used, or `results_file` would replace something else.
    """
    start = time.perf_counter()
    state = processes()
    max_detections = model.max_detections if max_detections is None else max_detections
    model.check(score_threshold, max_detections)
    if results_file is not None:
        check_results_files(results_file)
    if model.classes is not None:
        data = choose_classes(data, model.classes.choice, strict=False)
    classes = classes_of(data, model.detector_names, model.classes)
    share = data.images[state.process_index :: state.num_processes]

    def report(done: int) -> None:
        if progress is not None and state.is_main_process:
            progress(min(done * state.num_processes, len(data.images)), len(data.images))

    run = _Run(model, classes, max_detections, score_threshold)
    run.over(share, batch, workers, report)
    entries, unused = _gathered(run, data.images)
    images = _used(data, unused)
    if results_file is not None and state.is_main_process:
        _write_results(results_file, entries)
    box, mask = (
        score(
            coco_truth(images, data.categories, classes.index_of, kind),
            coco_results(entries, kind),
            kind,
            max_detections,
        )
        for kind in KINDS
    )
    left_out = _left_out(data, images, classes)
    evaluation = Evaluation(
        box=box.figures,
        mask=mask.figures,
        box_by_class=box.by_class,
        mask_by_class=mask.by_class,
        images=len(images),
        seconds=time.perf_counter() - start,
        classes=classes.summary(),
        problems=[problem for _, problem in unused],
        images_in_all=len(data.images) + left_out.missing_images,
        left_out=left_out,
        notes=dict(data.notes),
        categories_without_class=list(classes.unmatched_categories),
        max_detections=max_detections,
        score_threshold=score_threshold,
        mirror=model.mirror,
        supervision=f"masks: {model.supervised}" if model.supervised else "",
        scorer=scorer_name(),
    )
    return Measured(evaluation, classes, data.categories, images, entries, box, mask)


def results_files(path: Path) -> tuple[Path, Path]:
    """Where the results of boxes and of masks are written for `path`: X.json gives X.bbox.json and X.segm.json.

    Apart, since COCO's server takes one kind at a time, boxes are ranked by the detector's own scores and masks by
    theirs, and masks are without boxes: or their sizes would be taken from them.
    """
    stem = path.name.removesuffix(".json")
    return path.with_name(f"{stem}.bbox.json"), path.with_name(f"{stem}.segm.json")


def check_results_files(path: Path) -> None:
    """Raises UserError where one of `results_files` is there already and is not as `evaluate` writes it."""
    for file, kept in zip(results_files(path), (BOX_KEYS, MASK_KEYS), strict=True):
        check_regular(file, "COCO results")
        if file.exists() and not _are_results(file.read_bytes(), kept):
            raise UserError(
                f"{file}: is there already and was not written by `evaluate`, so it stays as it is; name another "
                "--results-file"
            )


def _are_results(data: bytes, kept: tuple[str, ...]) -> bool:
    """Whether `data` is to the letter what `evaluate` writes of some results: others order and space them otherwise."""
    try:
        entries = json.loads(data)
        ours = isinstance(entries, list) and all(tuple(entry) == kept for entry in entries)
        return not data or (ours and encode_json(entries, indent=None) == data)
    except (ValueError, TypeError, RecursionError):
        return False


@dataclass
class _Run:
    """The model over images. entries: COCO results with boxes, masks and both scores. unused: image id and reason."""

    model: Predictor
    classes: ClassMap
    max_detections: int
    score_threshold: float

    def __post_init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.unused: list[tuple[int, str]] = []

    def over(self, images: Sequence[ImageRecord], batch: int, workers: int, report: Callable[[int], None]) -> None:
        """All of `images`, in batches; report: called with how many are done."""
        prepared = EvaluationImages(images, self.model.preprocessing)
        source = Watched(prepared, [record.path for record in images], workers)
        done = 0
        for items in source.load("fewer --workers or a lower --batch need less", batch_size=batch, collate_fn=list):
            self.unused += [(images[index].id, problem) for index, image, problem in items if image is None]
            self._take([(images[index], image) for index, image, _ in items if image is not None])
            done += len(items)
            report(done)

    def _take(self, pairs: list[tuple[ImageRecord, Any]]) -> None:
        """A batch; where it fails one image after the other, so that one bad image costs no other."""
        try:
            instances = self._segment(pairs) if pairs else []
            new = [self._entries(record, one) for (record, _), one in zip(pairs, instances, strict=True)]
        except Exception as error:
            if len(pairs) == 1:
                self.unused.append((pairs[0][0].id, _problem(pairs[0][0], error)))
                return
            for pair in pairs:
                self._take([pair])
            return
        self.entries += [entry for entries in new for entry in entries]

    def _segment(self, pairs: list[tuple[ImageRecord, Any]]) -> list[Instances]:
        prepared, sizes = [image for _, image in pairs], [(record.height, record.width) for record, _ in pairs]
        return self.model.segment(prepared, sizes, self.max_detections, self.score_threshold)

    def _entries(self, record: ImageRecord, instances: Instances) -> list[dict[str, Any]]:
        entries = instances.to_coco(record.id, self.classes.category_of)
        known = [int(label) in self.classes.category_of for label in instances.labels]
        for entry, class_score in zip(entries, instances.class_scores[known], strict=True):
            entry["class_score"] = float(class_score)
        return entries


def _problem(record: ImageRecord, error: Exception) -> str:
    text = reason(error)
    return text if isinstance(error, UserError) else f"{printable(str(record.path))}: {text}"


def _gathered(run: _Run, images: Sequence[ImageRecord]) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """What the runs of all processes found, and which images they could not use, in the order of one process.

    Where scores tie, that order decides.
    """
    if processes().num_processes == 1:
        return run.entries, run.unused
    place = {record.id: number for number, record in enumerate(images)}
    entries = sorted(gather_object(run.entries), key=lambda entry: place[entry["image_id"]])
    return entries, sorted(gather_object(run.unused), key=lambda pair: place[pair[0]])


def _used(data: CocoData, unused: Sequence[tuple[int, str]]) -> list[ImageRecord]:
    """The images that the figures are of. Raises UserError where there is none."""
    if len(unused) == len(data.images):
        raise UserError(f"{data.annotation_file}: not one image can be read, the first: {unused[0][1]}")
    skipped = {image_id for image_id, _ in unused}
    return [record for record in data.images if record.id not in skipped]


def _write_results(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    for file, kind in zip(results_files(path), KINDS, strict=True):
        write_json_atomic(file, coco_results(entries, kind), indent=None)


def _left_out(data: CocoData, images: Sequence[ImageRecord], classes: ClassMap) -> LeftOut:
    """What the figures, of `images` alone, say nothing about."""
    faults = data.left_out()
    missing = faults.pop(MISSING_PICTURE, 0) + faults.pop(UNREADABLE_PICTURE, 0)
    annotations = [a for record in images for a in record.annotations]
    scored = [a for a in annotations if a.category_id in classes.index_of]
    return LeftOut(
        missing,
        len(data.images) - len(images),
        dict(faults),
        len(annotations) - len(scored),
        sum(a.segmentation is None for a in scored),
    )
