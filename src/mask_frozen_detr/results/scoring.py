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
    """Figures in percent, nan where there is nothing to measure: see `metric_names`. by_class: AP by class name.

    curves: (T, R) precision at COCO's IoU thresholds and recalls, the mean over classes; AP is its mean.
    """

    figures: dict[str, float]
    by_class: dict[str, float]
    curves: np.ndarray


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
    scorer = _compared(truth, entries, kind, max_detections)
    with contextlib.redirect_stdout(io.StringIO()):
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
    measured = overall[:, :, (overall > -1).all((0, 1))]
    curves = 100 * measured.mean(-1) if measured.size else np.full(overall.shape[:2], np.nan)
    return Scores(figures, by_class, curves)


@dataclass(frozen=True)
class ClassMatches:
    """How one class's detections met objects of one size, best scores first: what `score` accumulates.

    image: (D,) place of each detection's image in the truth. right, wrong: (T, D) whether it finds an object, or none,
    at each of COCO's IoU thresholds; neither where it is ignored. objects: (I,) those to be found, by image.
    """

    image: np.ndarray
    right: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray


def class_matches(
    truth: dict[str, Any],
    entries: list[dict[str, Any]],
    kind: Literal["bbox", "segm"],
    size: int = 0,
) -> list[ClassMatches]:
    """The matches of each class, in the order of ids. size: 0 all, 1 small, 2 medium, 3 large; else as `score`."""
    scorer = _compared(truth, entries, kind, COCO_DETECTIONS)
    place = {image["id"]: number for number, image in enumerate(truth["images"])}
    span = list(scorer.params.areaRng[size])
    thresholds = len(scorer.params.iouThrs)
    by_class: dict[int, list[dict[str, Any]]] = {category: [] for category in scorer.params.catIds}
    for one in scorer.evalImgs:
        if one is not None and list(one["aRng"]) == span:
            by_class[one["category_id"]].append(one)
    return [
        _join(sorted(many, key=lambda one: place[one["image_id"]]), place, thresholds) for many in by_class.values()
    ]


def _join(images: list[dict[str, Any]], place: dict[int, int], thresholds: int) -> ClassMatches:
    objects = np.zeros(len(place), np.int64)
    for one in images:
        objects[place[one["image_id"]]] = np.count_nonzero(~np.asarray(one["gtIgnore"], bool))
    counts = [len(one["dtScores"]) for one in images]
    found = np.repeat([place[one["image_id"]] for one in images], counts).astype(np.int64)
    scores = np.concatenate([np.asarray(one["dtScores"], np.float64) for one in images] or [np.zeros(0)])

    def flags(key: str) -> np.ndarray:
        parts = [np.asarray(one[key], np.int64).reshape(thresholds, -1) > 0 for one in images]
        return np.concatenate(parts or [np.zeros((thresholds, 0), bool)], axis=1)

    order = np.argsort(-scores, kind="mergesort")  # as COCOeval sorts: of equal scores the first image comes first
    matched, ignored = flags("dtMatches")[:, order], flags("dtIgnore")[:, order]
    return ClassMatches(found[order], matched & ~ignored, ~matched & ~ignored, objects)


def _compared(
    truth: dict[str, Any], entries: list[dict[str, Any]], kind: Literal["bbox", "segm"], max_detections: int
) -> Any:
    """A COCOeval whose `evaluate` is done."""
    assert kind == "bbox" or not any("bbox" in entry for entry in entries)
    _, data_set, evaluation = _scorer()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        ground = data_set()
        ground.dataset = truth
        ground.createIndex()
        scorer = evaluation(ground, _results(ground, entries, data_set), kind)
        scorer.params.maxDets = [1, 10, counted(max_detections)]
        scorer.evaluate()
    return scorer


def _scorer() -> tuple[str, Any, Any]:
    """Name, data-set class and evaluation class of the library that scores."""
    with contextlib.suppress(ImportError):
        from hotcoco import COCO, COCOeval

        if importlib.metadata.version("hotcoco") != "1.0.0":  # which takes masks of bytes for others, without a word
            return "hotcoco", COCO, COCOeval
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
