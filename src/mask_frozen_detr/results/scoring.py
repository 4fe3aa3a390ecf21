"""COCO's figures of boxes or masks, scored by hotcoco, or by pycocotools where that is not installed: both agree.

Not in the paper, whose tables are made of these figures. T IoU thresholds, R recalls, K classes, A sizes, M counts.
"""

import contextlib
import importlib.metadata
import io
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

COCO_DETECTIONS = 100  # an image, in COCO's own figures


@dataclass(frozen=True)
class Scores:
    """In percent, nan where there is nothing to measure. figures: see `metric_names`. by_class: AP by class name."""

    figures: dict[str, float]
    by_class: dict[str, float]


def counted(max_detections: int) -> int:
    """How many detections an image the figures count: COCO's 100, or more where more are asked for."""
    return max(COCO_DETECTIONS, max_detections)


def metric_names(max_detections: int = COCO_DETECTIONS) -> tuple[str, ...]:
    """COCO's 12 figures in its order; with more than 100 detections the recall is named by their number."""
    recalls = ("AR1", "AR10", f"AR{counted(max_detections)}", "ARs", "ARm", "ARl")
    return ("AP", "AP50", "AP75", "APs", "APm", "APl", *recalls)


def scorer_name() -> str:
    """Which library scores, and its version: "hotcoco 1.3.0"."""
    name = _scorer()[0]
    return f"{name} {importlib.metadata.version(name)}"


def score(
    truth: dict[str, Any],
    entries: list[dict[str, Any]],
    kind: Literal["bbox", "segm"],
    max_detections: int = COCO_DETECTIONS,
) -> Scores:
    """Score COCO results against a COCO data set, as COCOeval does.

    truth: with "images", "annotations" (ids from 1: COCOeval takes 0 for "nothing") and "categories". entries: of a
    results file. Those scored as "segm" must be without "bbox": from it `loadRes` takes the area, and small, medium
    and large would be split by boxes. max_detections: more than 100 are counted where there are more.
    """
    assert kind == "bbox" or not any("bbox" in entry for entry in entries)
    _, data_set, evaluation = _scorer()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        ground = data_set()
        ground.dataset = truth
        ground.createIndex()
        scorer = evaluation(ground, _results(ground, entries, data_set), kind)
        scorer.params.maxDets = [1, 10, counted(max_detections)]
        scorer.evaluate()
        scorer.accumulate()
    precision = np.asarray(scorer.eval["precision"])  # (T, R, K, A, M)
    recall = np.asarray(scorer.eval["recall"])  # (T, K, A, M)
    overall = precision[:, :, :, 0, -1]
    values = [overall, overall[0], overall[5]]  # IoU 0.50 to 0.95; 0.50; 0.75
    values += [precision[:, :, :, size, -1] for size in (1, 2, 3)]
    values += [recall[:, :, 0, count] for count in (0, 1, 2)]
    values += [recall[:, :, size, -1] for size in (1, 2, 3)]
    figures = dict(zip(metric_names(max_detections), map(_percent, values), strict=True))
    names = _unique_names(truth["categories"])
    by_class = {names[category]: _percent(overall[:, :, k]) for k, category in enumerate(scorer.params.catIds)}
    return Scores(figures, by_class)


def _scorer() -> tuple[str, Any, Any]:
    """Name, data-set class and evaluation class of the library that scores."""
    try:
        from hotcoco import COCO, COCOeval

        return "hotcoco", COCO, COCOeval
    except ImportError:
        from pycocotools.coco import COCO as SlowCOCO
        from pycocotools.cocoeval import COCOeval as SlowCOCOeval

        return "pycocotools", SlowCOCO, SlowCOCOeval


def _results(ground: Any, entries: list[dict[str, Any]], data_set: Any) -> Any:
    if entries:
        return ground.loadRes([dict(entry) for entry in entries])  # pycocotools writes into them
    nothing = data_set()  # pycocotools' `loadRes` fails without an entry
    nothing.dataset = {**{key: ground.dataset[key] for key in ("images", "categories")}, "annotations": []}
    nothing.createIndex()
    return nothing


def _percent(values: np.ndarray) -> float:
    """The mean of what was measured; COCOeval marks the rest by -1."""
    measured = values[values > -1]
    return 100 * float(measured.mean()) if measured.size else float("nan")


def _unique_names(categories: list[dict[str, Any]]) -> dict[int, str]:
    """Category id to name, with the id where several have one name."""
    often = Counter(category["name"] for category in categories)
    return {c["id"]: c["name"] if often[c["name"]] == 1 else f"{c['name']} ({c['id']})" for c in categories}
