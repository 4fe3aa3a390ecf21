"""What a model card tells: read from the folder of the run, where it was trained on this machine."""

import contextlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.results.evaluation_record import Evaluation, read_evaluation
from mask_frozen_detr.run.description import TRAINING_FILE

EVALUATION = re.compile(r"evaluation-(\d+)\.(json|jpg)")
BEST_FOLDER, BEST_EVALUATION = "best", "evaluation.json"  # of the weights with the best mask AP, within a run folder


@dataclass(frozen=True)
class TrainingFacts:
    """Empty or None where a folder does not tell: a run that came from the hub has no records with it.

    picture: val pictures with their masks, after the last evaluation.
    """

    steps: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    picture: Path | None = None


def read_facts(folder: Path | None) -> TrainingFacts:
    """What a run folder tells, with the last of its evaluations. What is damaged or missing is left out of a card."""
    if folder is None or not folder.is_dir():
        return TrainingFacts()
    run = folder.absolute().parent if folder.absolute().name == BEST_FOLDER else folder  # best/ lies within its run
    try:
        options = read_json_object(run / TRAINING_FILE)
    except UserError:
        options = {}
    steps, data = options.get("steps"), options.get("data")
    evaluations = [folder / BEST_EVALUATION] if folder != run else _numbered(run, "json")
    return TrainingFacts(
        steps if isinstance(steps, int) else None,
        options,
        data if isinstance(data, dict) else {},
        _first_readable(evaluations),
        next(iter(_numbered(run, "jpg")), None),
    )


def _numbered(run: Path, suffix: str) -> list[Path]:
    """evaluation-STEP files, the last one first."""
    matches = [match for path in run.iterdir() if (match := EVALUATION.fullmatch(path.name))]
    ranked = sorted((int(match[1]), match[0]) for match in matches if match[2] == suffix)
    return [run / name for _, name in reversed(ranked)]


def _first_readable(paths: list[Path]) -> Evaluation | None:
    for path in paths:
        with contextlib.suppress(UserError):
            return read_evaluation(path)
    return None
