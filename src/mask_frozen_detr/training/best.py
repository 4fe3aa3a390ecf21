"""best/: the weights with the best mask AP on val so far, as a run folder of their own.

What the run folder itself holds are the last weights. The best ones are chosen by evaluations on the way, which may
look at a part of the val images; at the end they, too, are measured on all of them.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mask_frozen_detr.evaluation import Evaluation, read_evaluation, write_evaluation
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.model import MaskFrozenDetr

BEST_FOLDER = "best"
BEST_EVALUATION = "evaluation.json"


@dataclass(frozen=True)
class Best:
    """The best evaluation so far. step: of its weights. whole: the figures are of all val images."""

    step: int
    evaluation: Evaluation
    whole: bool


def read_best(run: Path) -> Best | None:
    """The best weights of a run folder; None where it has none yet. Raises UserError where their record is damaged."""
    path = run / BEST_FOLDER / BEST_EVALUATION
    if not path.exists():
        return None
    saved = read_json_object(path)
    return Best(int(saved.get("step", 0)), read_evaluation(path), saved.get("whole") is True)


def write_best(run: Path, best: Best) -> None:
    """The record that makes what lies in best/ the best. Raises UserError where it cannot be written."""
    path = run / BEST_FOLDER / BEST_EVALUATION
    write_evaluation(path, best.evaluation, step=best.step, whole=best.whole)


def is_better(step: int, evaluation: Evaluation, best: Best | None) -> bool:
    """Whether an evaluation after `step` beats the best one; that of the same step, made again, does."""
    if best is None or best.step == step:
        return True
    found, known = evaluation.mask["AP"], best.evaluation.mask["AP"]
    return found > known or (math.isnan(known) and not math.isnan(found))


@contextmanager
def with_own_detector(model: MaskFrozenDetr, finetuned: bool) -> Iterator[None]:
    """While it is saved: a detector that still learns goes along as it is at this moment."""
    info = model.detector.info
    kept = info.identity, info.path, model.own_detector
    if finetuned:
        model.adopt_detector()
    try:
        yield
    finally:
        info.identity, info.path, model.own_detector = kept
