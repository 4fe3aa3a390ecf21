"""Runs side by side on the same images: figures, and whether a difference means more than which images were there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.errors import UserError, shorten
from mask_frozen_detr.evaluation import Evaluation, Measured, read_evaluation
from mask_frozen_detr.report.bootstrap import average_precision, draw_images, interval
from mask_frozen_detr.report.history import read_history
from mask_frozen_detr.results.coco_results import KINDS, Kind, coco_results, coco_truth
from mask_frozen_detr.results.scoring import class_matches

# Figure → kind, size (0 all, 1 small, …), places of its IoU thresholds.
FIGURES: dict[str, tuple[Kind, int, slice]] = {
    "box AP": ("bbox", 0, slice(None)),
    "mask AP": ("segm", 0, slice(None)),
    "mask AP50": ("segm", 0, slice(0, 1)),
    "mask AP75": ("segm", 0, slice(5, 6)),
    "mask APs": ("segm", 1, slice(None)),
    "mask APm": ("segm", 2, slice(None)),
    "mask APl": ("segm", 3, slice(None)),
}


@dataclass(frozen=True)
class Results:
    """What one run found, as COCO results of both kinds.

    images: those that it could read, with the objects in them. categories: the classes that it was asked for, after
    what it was trained to choose and rename. known: ids of those that it can find.
    """

    name: str
    entries: Mapping[Kind, list[dict[str, Any]]]
    images: Sequence[ImageRecord]
    categories: Mapping[int, str]
    known: frozenset[int]

    @classmethod
    def of(cls, name: str, measured: Measured) -> "Results":
        """The figures of an evaluation."""
        entries = {kind: coco_results(measured.entries, kind) for kind in KINDS}
        return cls(name, entries, measured.images, measured.categories, frozenset(measured.classes.index_of))


@dataclass(frozen=True)
class Figure:
    """A figure in percent, nan where there is nothing to measure. low, high: 95% of the resamples lie between."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Runs on the same images, side by side.

    figures: by run and figure. differences: of each run but the first, from the first. resamples: 0 where figures are
    those that runs have recorded; intervals are nan then.
    """

    images: int
    left_out_images: int  # that some run could not read
    categories: int
    resamples: int
    seed: int
    figures: dict[str, dict[str, Figure]]
    differences: dict[str, dict[str, Figure]]

    @property
    def first(self) -> str:
        return next(iter(self.figures))

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON holds it: nan as null, four places."""

        def plain(figure: Figure) -> dict[str, float | None]:
            parts = {"value": figure.value, "low": figure.low, "high": figure.high}
            return {name: None if np.isnan(value) else round(value, 4) for name, value in parts.items()}

        def all_of(runs: dict[str, dict[str, Figure]]) -> dict[str, Any]:
            return {run: {name: plain(one) for name, one in figures.items()} for run, figures in runs.items()}

        return {
            "images": self.images,
            "left_out_images": self.left_out_images,
            "categories": self.categories,
            "resamples": self.resamples,
            "seed": self.seed,
            "interval": 0.95,
            "figures": all_of(self.figures),
            "differences_from": self.first,
            "differences": all_of(self.differences),
        }


def compare(runs: Sequence[Results], resamples: int, seed: int) -> Comparison:
    """Figures of all runs over the images that all could read and the categories that all know.

    Raises UserError where runs were trained on other choices of classes, or nothing is common to them.
    """
    first = runs[0]
    for run in runs[1:]:
        if dict(run.categories) != dict(first.categories):
            raise UserError(
                f"compare: {first.name} and {run.name} were trained on other choices of classes: of the same data one "
                f"looks for {shorten(first.categories.values())}, the other for {shorten(run.categories.values())}"
            )
    known = frozenset.intersection(*(run.known for run in runs))
    readable = set.intersection(*({record.id for record in run.images} for run in runs))
    images = [record for record in first.images if record.id in readable]
    if not images or not known:
        what = "image" if not images else "category"
        raise UserError(f"compare: no {what} is common to {', '.join(run.name for run in runs)}")
    drawn = draw_images(len(images), resamples, seed)
    values = {run.name: _figures(run, images, known, drawn) for run in runs}
    base = values[first.name]
    differences = {
        run.name: {name: _figure(values[run.name][name] - base[name]) for name in FIGURES} for run in runs[1:]
    }
    figures = {run: {name: _figure(one) for name, one in found.items()} for run, found in values.items()}
    left_out = max(len(run.images) for run in runs) - len(images)
    return Comparison(len(images), left_out, len(known), resamples, seed, figures, differences)


def compare_recorded(evaluations: Mapping[str, Evaluation]) -> Comparison:
    """Puts figures that runs have recorded side by side: these have no intervals.

    Raises UserError where they are of different numbers of images or classes.
    """
    sizes = {name: (one.images, len(one.mask_by_class)) for name, one in evaluations.items()}
    if len(set(sizes.values())) > 1:
        found = "; ".join(f"{name}: {images} images, {classes} classes" for name, (images, classes) in sizes.items())
        raise UserError(f"compare: found figures of different data: {found}; --data measures all runs on the same")
    figures = {
        name: {figure: Figure(_recorded(one, figure), math.nan, math.nan) for figure in FIGURES}
        for name, one in evaluations.items()
    }
    base = next(iter(figures.values()))
    differences = {
        name: {figure: Figure(one.value - base[figure].value, math.nan, math.nan) for figure, one in found.items()}
        for name, found in list(figures.items())[1:]
    }
    images, classes = next(iter(sizes.values()))
    return Comparison(images, 0, classes, 0, 0, figures, differences)


def recorded_evaluation(name: str) -> Evaluation:
    """The last one of a run folder, or a file that `evaluate --json` wrote. Raises UserError where there is none."""
    path = Path(name)
    if path.is_file():
        return read_evaluation(path)
    evaluations = read_history(path).evaluations
    if not evaluations:
        raise UserError(f"{name}: has no evaluation of its own; --data measures it")
    return list(evaluations.values())[-1]


def _figures(
    run: Results, images: Sequence[ImageRecord], known: frozenset[int], drawn: np.ndarray
) -> dict[str, np.ndarray]:
    """(1 + B,) of each figure: over all images, then over each resample."""
    weights = np.concatenate([np.ones((1, len(images)), drawn.dtype), drawn])
    ids = {record.id for record in images}
    found: dict[tuple[Kind, int], np.ndarray] = {}
    for kind, size, _ in FIGURES.values():
        if (kind, size) not in found:
            entries = [one for one in run.entries[kind] if one["image_id"] in ids and one["category_id"] in known]
            truth = coco_truth(images, run.categories, known, kind)
            found[kind, size] = average_precision(class_matches(truth, entries, kind, size), weights)  # (1 + B, T)
    return {name: found[kind, size][:, part].mean(axis=1) for name, (kind, size, part) in FIGURES.items()}


def _recorded(evaluation: Evaluation, figure: str) -> float:
    kind, _, name = figure.partition(" ")
    return (evaluation.box if kind == "box" else evaluation.mask)[name]


def _figure(values: np.ndarray) -> Figure:
    return Figure(float(values[0]), *interval(values[1:]))
