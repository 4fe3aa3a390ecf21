"""Masks in given boxes against the true ones: how good they are, and how well their scores tell it.

    python -m benchmarks.given_boxes RUN DATA --output benchmarks/results/given-boxes.json

The boxes are those of the data's val objects, crowds left out. Found: among the detector's detections is one of the
class whose box overlaps by half. Figures with a plain look at the picture and with careful ones, on the same objects.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from pycocotools import mask as coco_mask
from torchvision.ops import box_convert, box_iou
from tyro.conf import Positional

from benchmarks.report import describe_run
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import Annotation, ImageRecord
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.progress import Progress
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.results.inference import top_detections
from mask_frozen_detr.results.rle import segmentation_to_rle

SMALL, LARGE = 32**2, 96**2  # pixels of area, COCO's


@dataclass
class Options:
    """Mean mask IoU on given boxes."""

    run: Positional[str]
    data: Positional[Path]
    output: Path | None = None
    every: int = 1  # take each so many-th picture
    objects: int = 1000  # of a picture at most, drawn at random


def is_found(model: MaskFrozenDetr, record: ImageRecord, objects: list[Annotation], labels: list[int | None]) -> Any:
    """(N,) bool: whether the detector finds each object by itself."""
    image = open_picture(record, record.orientation)
    pixel_values, pixel_mask = collate_images([model.detector.info.preprocessing(image)])
    with torch.no_grad():
        detections = model.detector(pixel_values, pixel_mask)
    [top] = top_detections(detections.logits, model.detector.info.score_rule, 100)
    boxes = box_convert(detections.boxes[0, top.query_index], "cxcywh", "xyxy")
    true = torch.tensor([corners(one) for one in objects]) / torch.tensor([record.width, record.height] * 2)
    wanted = torch.tensor([-1 if label is None else label for label in labels])
    overlaps = box_iou(true.float(), boxes) * (top.labels == wanted[:, None])
    return (overlaps.max(1).values >= 0.5).numpy()


def corners(annotation: Annotation) -> list[float]:
    x, y, w, h = annotation.bbox
    return [x, y, x + w, y + h]


def measure(options: Options) -> list[dict[str, Any]]:
    """An entry an object: area, found, and IoU and quality of each way."""
    model = MaskFrozenDetr.from_pretrained(options.run)
    data = load_split(options.data, "val")
    classes = classes_of(data, model.detector.info.class_names, model.classes)
    pictures = data.images[:: options.every]
    bar = Progress("measuring", len(pictures))
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(pictures, 1):
        objects = [one for one in record.annotations if not one.iscrowd and one.segmentation is not None]
        if len(objects) > options.objects:
            drawn = np.random.default_rng(record.id).permutation(len(objects))[: options.objects]
            objects = [objects[k] for k in sorted(drawn)]
        if objects:
            labels = [classes.index_of.get(one.category_id) for one in objects]
            found = is_found(model, record, objects, labels)
            true = [segmentation_to_rle(one.segmentation or [], record.height, record.width) for one in objects]
            new: list[dict[str, Any]] = [
                {"area": float(coco_mask.area(rle)), "found": bool(one)} for rle, one in zip(true, found, strict=True)
            ]
            for way, careful in (("plain", False), ("careful", True)):
                image = open_picture(record, record.orientation)
                masks = model.predict(image, boxes=[corners(one) for one in objects], labels=labels, careful=careful)
                for row, mask, rle, score in zip(new, masks.to_rle(), true, masks.scores, strict=True):
                    row[way] = float(coco_mask.iou([mask], [rle], [0])[0, 0])
                    row[f"{way} quality"] = float(score)
            rows += new
        bar.update(number)
    bar.close()
    return rows


def summary(rows: list[dict[str, Any]], way: str) -> dict[str, float]:
    """Mean IoU over some kinds of objects, and what the quality has to do with it."""
    iou, quality, area = (np.array([row[key] for row in rows]) for key in (way, f"{way} quality", "area"))
    found = np.array([row["found"] for row in rows])
    kinds = {
        "all": area >= 0,
        "found": found,
        "missed": ~found,
        "small": area < SMALL,
        "medium": (area >= SMALL) & (area < LARGE),
        "large": area >= LARGE,
    }
    worst = np.argsort(quality)[: max(1, len(rows) // 10)]
    figures = {f"mean IoU, {kind}": float(iou[which].mean()) for kind, which in kinds.items() if which.any()}
    figures["IoU at least 0.5"] = float((iou >= 0.5).mean())
    figures["correlation of quality and IoU"] = float(np.corrcoef(quality, iou)[0, 1])
    figures["mean quality"] = float(quality.mean())
    figures["mean IoU of the tenth of least quality"] = float(iou[worst].mean())
    return {key: round(value, 4) for key, value in figures.items()}


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    rows = measure(options)
    figures = {way: summary(rows, way) for way in ("plain", "careful")}
    gains = np.array([row["careful"] - row["plain"] for row in rows])
    found = {
        "objects": len(rows),
        "found": sum(row["found"] for row in rows),
        **figures,
        "gain": {
            "mean": round(float(gains.mean()), 4),
            "standard error": round(float(gains.std() / len(gains) ** 0.5), 4),
        },
    }
    for key in figures["plain"]:
        print(f"{key:42} {figures['plain'][key]:.3f} {figures['careful'][key]:.3f}")
    print(f"{len(rows)} objects, gain {found['gain']}")
    if options.output is not None:
        described = {
            **describe_run(torch.device("cpu"), torch.get_num_threads()),
            "command": f"python -m benchmarks.given_boxes {Path(options.run).name} {options.data.name} "
            f"--every {options.every} --objects {options.objects}",
        }
        write_json_atomic(options.output, {"run": described, **found})


if __name__ == "__main__":
    main()
