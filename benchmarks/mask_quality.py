"""How good the masks of runs are, object by object: less noise than AP, for comparing ways to train.

    python -m benchmarks.mask_quality RUN … --data DATA --json levers.json

Each true object of the val split goes to a query: `found` where the detector's box overlaps it by 0.5, over that box;
else `missed`, over its true box. framed: the found ones over their true boxes, to see what better boxes would be worth.
iou: the mean IoU of their masks with the truth, on a 112 × 112 grid over the object's box. quality: the share of masks
above an IoU threshold, averaged over COCO's ten: what AP rewards, without the scores.
All RUNs must have one detector, which looks at each picture once.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import tyro
from torch import Tensor
from tyro.conf import Positional

from benchmarks.report import describe_run
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.load import load_data
from mask_frozen_detr.detectors.base import Detections
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.machine.memory import keep_freed_memory
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network.mask_network import MaskNetwork, pixel_boxes
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.training.config import AugmentConfig
from mask_frozen_detr.training.losses import mask_iou
from mask_frozen_detr.training.matching import Matcher, Matches
from mask_frozen_detr.training.samples import Batch, TrainingData, collate

FOUND = 0.5  # least IoU of a box that counts as the object's
THRESHOLDS = torch.arange(10) * 0.05 + 0.5


@dataclass
class Options:
    """Measure the masks of runs on the val split."""

    runs: Positional[list[Path]]
    data: Path
    json: Path | None = None


@torch.no_grad()
def ious(models: list[MaskFrozenDetr], data: Path) -> list[dict[str, Tensor]]:
    """For each model the IoUs of found and of missed objects, and of the found ones over their true boxes."""
    val = load_data(data).val
    if val is None:
        raise UserError(f"{data}: has no val split to measure on")
    detector = models[0].detector
    classes = classes_of(val, detector.info.class_names)
    plain = AugmentConfig(flip=False, multi_scale=False, crop=False)
    samples = TrainingData(val, classes, detector.info.preprocessing, plain, seed=0)
    costs, rule = detector.info.costs, detector.info.score_rule
    every, found_alone = Matcher(costs, rule, FOUND, missed=True), Matcher(costs, rule, FOUND)
    values: list[dict[str, list[Tensor]]] = [{"found": [], "missed": [], "framed": []} for _ in models]
    for number in range(len(samples)):
        batch = collate([samples[number, number]])
        assert isinstance(batch.images, Tensor)
        detections = detector(batch.images, batch.pixel_mask)
        matches, found = every(detections, batch.targets), len(found_alone(detections, batch.targets))
        true_boxes = matches.truth(batch.targets).boxes
        for model, parts in zip(models, values, strict=True):
            over_boxes = overlaps(model.network, detections, batch, matches, matches.boxes)
            over_truth = overlaps(model.network, detections, batch, matches, true_boxes)
            parts["found"].append(over_boxes[:found])
            parts["missed"].append(over_boxes[found:])
            parts["framed"].append(over_truth[:found])
    return [{key: torch.cat(parts) for key, parts in one.items()} for one in values]


def overlaps(network: MaskNetwork, detections: Detections, batch: Batch, matches: Matches, frames: Tensor) -> Tensor:
    """IoU with the truth of the masks over these frames (M, 4), cx, cy, w, h in [0, 1]: (M,)."""
    output = network(detections, batch.pixel_mask, matches.image_index, matches.query_index, frames)
    truth = matches.truth(batch.targets)
    boxes = pixel_boxes(truth.boxes, extents(batch.pixel_mask)[matches.image_index])
    return mask_iou(output.logits, truth.masks, boxes, output.frames)


def quality(ious: Tensor) -> float:
    """The share above a threshold, averaged over COCO's ten."""
    return round(fmean(float((ious > threshold).float().mean()) for threshold in THRESHOLDS), 4)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    keep_freed_memory()
    torch.set_num_threads(1)
    models = [MaskFrozenDetr.from_pretrained(run).eval() for run in options.runs]
    rows: dict[str, Any] = {}
    for run, model, one in zip(options.runs, models, ious(models, options.data), strict=True):
        found, framed = one["found"], one["framed"]
        rows[run.name] = {
            "found": len(found),
            "found_iou": round(float(found.mean()), 4),
            "quality": quality(found),
            "framed_iou": round(float(framed.mean()), 4),
            "framed_quality": quality(framed),
            "missed": len(one["missed"]),
            "missed_iou": round(float(one["missed"].mean()), 4),
            "parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        }
        print(run.name, rows[run.name])
    if options.json is not None:
        write_json_atomic(options.json, {"run": describe_run(torch.device("cpu"), 1), "rows": rows})


if __name__ == "__main__":
    main()
