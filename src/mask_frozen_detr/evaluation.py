"""COCO box and mask AP of a model (all 12 figures each), overall and by class.

Images are segmented and encoded one by one; what is kept of each is its run-length-encoded masks, so memory does not
grow with resolution, only by some kilobytes an image.
"""

import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from hotcoco import COCO, COCOeval
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mask_frozen_detr.data.classes import ClassMap, classes_of
from mask_frozen_detr.data.coco import CocoData, ImageRecord, check_size
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.detectors.preprocessing import Preprocessing, collate_images
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.processes import processes
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetwork
from mask_frozen_detr.results.inference import segment

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass
class Evaluation:
    """box and mask: the 12 COCO figures in percent (nan where there is nothing to measure)."""

    box: dict[str, float]
    mask: dict[str, float]
    box_by_class: dict[str, float]
    mask_by_class: dict[str, float]
    images: int
    seconds: float  # all of it: reading, both networks, encoding, scoring
    classes: str  # how classes met categories
    problems: list[str] = field(default_factory=list)  # images that could not be read

    def as_dict(self) -> dict[str, Any]:
        def clean(values: dict[str, float]) -> dict[str, float | None]:
            return {key: None if np.isnan(value) else round(value, 4) for key, value in values.items()}

        return {
            "box": clean(self.box),
            "mask": clean(self.mask),
            "by_class": {
                name: {"box": box, "mask": mask}
                for (name, box), mask in zip(
                    clean(self.box_by_class).items(), clean(self.mask_by_class).values(), strict=True
                )
            },
            "images": self.images,
            "seconds": round(self.seconds, 2),
            "classes": self.classes,
            "problems": self.problems,
        }

    def table(self, by_class: bool = False) -> str:
        """A plain text table."""

        def row(name: str, values: dict[str, float]) -> str:
            cells = ("-" if np.isnan(v) else f"{v:.1f}" for v in values.values())
            return f"{name:<6}" + "".join(f"{cell:>7}" for cell in cells)

        lines = [
            " " * 6 + "".join(f"{name:>7}" for name in METRICS),
            row("box", self.box),
            row("mask", self.mask),
        ]
        if by_class:
            lines += ["", f"{'class':<24}{'box AP':>8}{'mask AP':>8}"]
            for name, box in self.box_by_class.items():
                mask = self.mask_by_class[name]
                shown = ("-" if np.isnan(v) else f"{v:.1f}" for v in (box, mask))
                lines.append(f"{name:<24}" + "".join(f"{cell:>8}" for cell in shown))
        return "\n".join(lines)


class EvaluationImages(Dataset[tuple[ImageRecord, Tensor | None, str]]):
    """Images as the detector wants them, unpadded; None and the reason for those that cannot be read."""

    def __init__(self, images: list[ImageRecord], preprocessing: Preprocessing):
        self.images, self.preprocessing = images, preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[ImageRecord, Tensor | None, str]:
        record = self.images[index]
        try:
            image = read_image(record.path, apply_exif=False)
            check_size(record, image)
        except UserError as error:
            return record, None, str(error)
        return record, self.preprocessing(image), ""


def evaluate(
    model: MaskFrozenDetr,
    data: CocoData,
    batch: int = 1,
    workers: int = 0,
    max_detections: int = 100,
    score_threshold: float = 0.0,
    results_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    network: MaskNetwork | None = None,
) -> Evaluation:
    """Run `model` over `data` and score boxes and masks.

    max_detections: detections an image (COCO counts 100). score_threshold: class scores at most this are left out,
    which is faster and may cost AP. results_file: where to write a COCO results file with boxes and masks, as the test
    server takes it. progress: called with (images done, images in all). network: other weights in the mask network's
    place, such as their running mean.

    Images that cannot be read are named in the result and left out of it. Under `accelerate launch` or `torchrun`
    every process takes its share of the images and gets the same result; the first one writes and reports progress,
    as if all were as far as it is.
    Raises UserError where no class fits or no image can be read.
    """
    start = time.perf_counter()
    state = processes()
    classes = classes_of(data, model.detector.info.class_names, model.classes)
    share = data.images[state.process_index :: state.num_processes]

    def report(done: int) -> None:
        if progress is not None and state.is_main_process:
            progress(min(done * state.num_processes, len(data.images)), len(data.images))

    results, unread = _predict_all(
        model, network or model.network, share, classes, batch, workers, max_detections, score_threshold, report
    )
    if state.num_processes > 1:  # gathered, and in the order of one process: where scores tie, the order decides
        place = {record.id: number for number, record in enumerate(data.images)}
        results = sorted(gather_object(results), key=lambda entry: place[entry["image_id"]])
        unread = sorted(gather_object(unread), key=lambda pair: place[pair[0]])
    problems = [problem for _, problem in unread]
    if len(problems) == len(data.images):
        raise UserError(f"{data.annotation_file}: not one image can be read, the first: {problems[0]}")
    if results_file is not None and state.is_main_process:
        server = [{key: value for key, value in r.items() if key != "class_score"} for r in results]
        write_json_atomic(results_file, server, indent=None)
    truth = _truth(data, classes, {image_id for image_id, _ in unread})
    box, box_by_class = _score(truth, _as_boxes(results), "bbox")
    mask, mask_by_class = _score(truth, results, "segm")
    return Evaluation(
        box,
        mask,
        box_by_class,
        mask_by_class,
        len(data.images) - len(problems),
        time.perf_counter() - start,
        classes.summary(),
        problems,
    )


def _predict_all(
    model: MaskFrozenDetr,
    network: MaskNetwork,
    images: list[ImageRecord],
    classes: ClassMap,
    batch: int,
    workers: int,
    max_detections: int,
    score_threshold: float,
    report: Callable[[int], None],
) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """COCO results, and image id and reason for each image that cannot be read."""
    loader = DataLoader(
        EvaluationImages(images, model.detector.info.preprocessing),
        batch_size=batch,
        num_workers=workers,
        collate_fn=list,
    )
    results: list[dict[str, Any]] = []
    unread: list[tuple[int, str]] = []
    was_training = network.training
    network.eval()
    done = 0
    for items in loader:
        unread += [(record.id, problem) for record, image, problem in items if image is None]
        usable = [(record, image) for record, image, _ in items if image is not None]
        if usable:
            pixel_values, pixel_mask = collate_images([image for _, image in usable])
            found = segment(
                model.detector,
                network,
                send(pixel_values, model.device),
                pixel_mask,
                [(record.height, record.width) for record, _ in usable],
                max_detections,
                score_threshold,
            )
            for (record, _), instances in zip(usable, found, strict=True):
                entries = instances.to_coco(record.id, classes.category_of)
                known = [int(label) in classes.category_of for label in instances.labels]
                for entry, class_score in zip(entries, instances.class_scores[known], strict=True):
                    entry["class_score"] = float(class_score)
                results += entries
        done += len(items)
        report(done)
    network.train(was_training)
    return results, unread


def _as_boxes(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Boxes are ranked by the detector's own scores: box AP is the detector's, with masks or without."""
    return [
        {
            "image_id": entry["image_id"],
            "category_id": entry["category_id"],
            "bbox": entry["bbox"],
            "score": entry["class_score"],
        }
        for entry in results
    ]


def _truth(data: CocoData, classes: ClassMap, unread: set[int]) -> dict[str, Any]:
    """COCO's ground truth, without the categories that the detector lacks and the images that could not be read."""
    images = [record for record in data.images if record.id not in unread]

    def plain(segmentation):
        if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
            return {"size": list(segmentation["size"]), "counts": segmentation["counts"].decode()}
        return segmentation

    return {
        "images": [{"id": r.id, "width": r.width, "height": r.height, "file_name": r.path.name} for r in images],
        "annotations": [
            {
                "id": a.id,
                "image_id": record.id,
                "category_id": a.category_id,
                "bbox": list(a.bbox),
                "area": a.area,
                "iscrowd": int(a.iscrowd),
                "segmentation": plain(a.segmentation),
            }
            for record in images
            for a in record.annotations
            if a.category_id in classes.index_of
        ],
        "categories": [{"id": key, "name": name} for key, name in data.categories.items() if key in classes.index_of],
    }


def _score(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str
) -> tuple[dict[str, float], dict[str, float]]:
    """12 figures in percent, and AP by class name."""
    names = {category["id"]: category["name"] for category in truth["categories"]}
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(truth)
        scorer = COCOeval(ground, ground.loadRes(results), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    stats = [float("nan") if value < 0 else 100 * value for value in scorer.stats]
    assert scorer.eval is not None
    precision = np.asarray(scorer.eval["precision"])[:, :, :, 0, -1]  # (IoU, recall, class), all sizes, 100 detections
    by_class = {}
    for k, category in enumerate(scorer.params.catIds):
        values = precision[:, :, k]
        values = values[values > -1]
        by_class[names[category]] = 100 * float(values.mean()) if len(values) else float("nan")
    return dict(zip(METRICS, stats, strict=True)), by_class


def write_evaluation(path: Path, evaluation: Evaluation, **extra: Any) -> None:
    """JSON beside a run."""
    write_json_atomic(path, {**extra, **evaluation.as_dict()})


def read_evaluation(path: Path) -> Evaluation:
    """What `write_evaluation` wrote. Raises UserError where the file is damaged."""

    def figures(values: dict[str, float | None]) -> dict[str, float]:
        return {key: float("nan") if value is None else value for key, value in values.items()}

    try:
        saved = json.loads(path.read_text())
        return Evaluation(
            figures(saved["box"]),
            figures(saved["mask"]),
            figures({name: pair["box"] for name, pair in saved["by_class"].items()}),
            figures({name: pair["mask"] for name, pair in saved["by_class"].items()}),
            saved["images"],
            saved["seconds"],
            saved["classes"],
            saved["problems"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is no evaluation: {error}") from error
