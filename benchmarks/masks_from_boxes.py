"""What masks from boxes are worth: pseudo-masks beside the truth, and mask AP by the number of images with true masks.

    python -m benchmarks.masks_from_boxes iou DATA --cache FOLDER --json FILE --detector DETECTOR
    python -m benchmarks.masks_from_boxes curve DETECTOR DATA --output FOLDER --json FILE --images 0 10 50 --seeds 3

`iou` draws the pseudo-masks of the training objects that have a true mask, without any training, and compares them
with the truth, beside the box and the ellipse in it; with a detector they follow what it sees. `curve` trains for each
number of images with the masks of these alone, and with the boxes of all others as well; evaluation is always on true
masks. What is measured already is not measured again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors import load_detector
from mask_frozen_detr.machine.devices import processor_name
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.results.paste import paste_probabilities
from mask_frozen_detr.results.rle import segmentation_to_rle
from mask_frozen_detr.training.box_masks import MASK_SIDE
from mask_frozen_detr.training.pseudo_masks.draw import draw_missing
from mask_frozen_detr.training.pseudo_masks.evidence import Evidence
from mask_frozen_detr.training.pseudo_masks.soft_cut import inside_image
from mask_frozen_detr.training.pseudo_masks.store import FOLDER, PseudoMasks

SIZES = {"all": (0.0, 1e9), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e9)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    iou = commands.add_parser("iou")
    iou.add_argument("data", type=Path)
    iou.add_argument("--cache", type=Path, required=True)
    iou.add_argument("--detector", help="asked for evidence; left out, pixels and boxes alone are looked at")
    iou.set_defaults(measure=lambda found: ious(load_split(found.data, "train"), found.cache, found.detector))
    curve = commands.add_parser("curve")
    curve.add_argument("detector")
    curve.add_argument("data", type=Path)
    curve.add_argument("--output", type=Path, required=True)
    curve.add_argument("--images", type=int, nargs="+", default=[0, 5, 10, 20, 50, 100])
    curve.add_argument("--seeds", type=int, default=3)
    curve.add_argument("--train-options", default="--preset light", help="of `train`, for every run alike")
    curve.add_argument("--rounds", type=int, default=2, help="of drawing masks, in runs that draw any")
    curve.set_defaults(measure=lambda found: measure_curve(found))
    for command in (iou, curve):
        command.add_argument("--json", type=Path, required=True)
    found = parser.parse_args()
    measured = {"command": " ".join(["python -m benchmarks.masks_from_boxes", *sys.argv[1:]]), **where()}
    write_json_atomic(found.json, {**measured, **found.measure(found)})
    print(found.json.read_text())


def where() -> dict[str, str]:
    """Commit and hardware."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {"commit": commit.stdout.strip(), "hardware": f"{os.cpu_count()} cores, {processor_name()}"}


def ious(data: CocoData, cache: Path, name: str | None) -> dict[str, Any]:
    """Mean IoU of pseudo-masks, boxes and ellipses with the truth, over image pixels, by the area of the box."""
    evidence = None
    if name is not None:
        detector = load_detector(name)
        evidence = Evidence(detector, classes_of(data, detector.info.class_names).index_of)
    store = PseudoMasks("boxes", cache / FOLDER, cache, evidence)
    draw_missing(store, data.images, workers=0, quiet=False)
    off = (np.arange(MASK_SIDE) + 0.5) / MASK_SIDE * 2 - 1
    ellipse = (off[:, None] ** 2 + off**2 <= 1).astype(np.float32)
    rows: list[tuple[float, ...]] = []  # area, then the three
    for record in data.images:
        for annotation, mask in zip(store.objects(record), store.read(record), strict=True):
            if annotation.segmentation is None:
                continue
            truth = coco_mask.decode(segmentation_to_rle(annotation.segmentation, record.height, record.width)) > 0
            x, y, w, h = annotation.bbox
            box = inside_image((x, y, x + w, y + h), record.width, record.height)
            overlaps = []
            for values in (mask / np.float32(255), np.ones_like(ellipse), ellipse):
                found = paste_probabilities(values, box, record.height, record.width).above()
                found_full = found.full(record.height, record.width)
                overlaps.append(float((found_full & truth).sum() / max(1, (found_full | truth).sum())))
            rows.append((w * h, *overlaps))
    table = np.array(rows)
    result: dict[str, Any] = {}
    for name, (low, high) in SIZES.items():
        part = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        means = dict(zip(("pseudo_masks", "boxes", "ellipses"), part[:, 1:].mean(0).round(4).tolist(), strict=True))
        result[name] = {"objects": len(part), **means}
    return {"mean_iou": result}


def measure_curve(options: argparse.Namespace) -> dict[str, Any]:
    """Mask AP of every run: number of images with masks, with the boxes of the rest or not, seed."""
    options.output.mkdir(parents=True, exist_ok=True)
    annotation_file = load_split(options.data, "train").annotation_file
    whole = json.loads(annotation_file.read_text())
    runs = []
    for seed in range(options.seeds):
        for count in [*options.images, len(whole["images"])]:
            for others in ("boxes", "unused"):
                if (count == 0 and others == "unused") or (count == len(whole["images"]) and others == "boxes"):
                    continue
                file = thinned(whole, count, others, seed, options.output)
                ap = mask_ap(options, file, others, options.output / f"run-{count}-{others}-{seed}", seed)
                runs.append({"images_with_masks": count, "others": others, "seed": seed, **ap})
                print(runs[-1], flush=True)
    return {"runs": runs}


def thinned(whole: dict[str, Any], count: int, others: str, seed: int, folder: Path) -> Path:
    """The annotations with the masks of `count` images, drawn by the seed; other objects as boxes, or not at all."""
    file = folder / f"train-{count}-{others}-{seed}.json"
    kept = set(np.random.default_rng(seed).permutation([image["id"] for image in whole["images"]])[:count].tolist())
    annotations = []
    for annotation in whole["annotations"]:
        if annotation["image_id"] in kept or annotation["iscrowd"]:
            annotations.append(annotation)
        elif others == "boxes":
            annotations.append({key: value for key, value in annotation.items() if key != "segmentation"})
    images = [image for image in whole["images"] if image["id"] in kept or others == "boxes"]
    known = {image["id"] for image in images}
    annotations = [annotation for annotation in annotations if annotation["image_id"] in known]
    write_json_atomic(file, {**whole, "images": images, "annotations": annotations}, indent=None)
    return file


def mask_ap(options: argparse.Namespace, file: Path, others: str, output: Path, seed: int) -> dict[str, float]:
    """Trains a run, or goes on with it, and gives its figures on the val split of the data."""
    pictures, val_pictures = (load_split(options.data, split).images[0].path.parent for split in ("train", "val"))
    command = [sys.executable, "-m", "mask_frozen_detr.cli", "train", options.detector, str(file)]
    command += ["--images", str(pictures), "--val", str(options.data), "--val-images", str(val_pictures)]
    command += ["--output", str(output), "--seed", str(seed), "--cache", str(options.output / "cache")]
    if others == "boxes":
        command += ["--masks-from", "boxes-where-missing", "--rounds", str(options.rounds)]
    command += options.train_options.split() + (["--resume"] if output.exists() else [])
    subprocess.run(command, check=True)
    last = max(output.glob("evaluation-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    figures = json.loads(last.read_text())["mask"]
    return {name: figures[name] for name in ("AP", "AP50", "AP75")}


if __name__ == "__main__":
    main()
