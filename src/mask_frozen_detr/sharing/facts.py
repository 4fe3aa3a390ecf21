"""What a model card tells: read from the folder of the run, where it was trained on this machine."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.json_files import read_json_object
from mask_frozen_detr.results.evaluation_record import Evaluation, read_evaluation
from mask_frozen_detr.run.description import TRAINING_FILE

EVALUATION = re.compile(r"evaluation-(\d+)\.json")
PICTURES_FOLDER = "pictures"
MOST_PICTURES = 4


@dataclass(frozen=True)
class TrainingFacts:
    """Empty or None where a folder does not tell: a run that came from the hub has no records with it."""

    steps: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    pictures: list[Path] = field(default_factory=list)


def read_facts(folder: Path | None) -> TrainingFacts:
    """Of a run folder, with the last of its evaluations. What is damaged or missing is left out of a card."""
    if folder is None or not folder.is_dir():
        return TrainingFacts()
    try:
        options = read_json_object(folder / TRAINING_FILE)
    except UserError:
        options = {}
    steps, data = options.get("steps"), options.get("data")
    pictures = folder / PICTURES_FOLDER
    return TrainingFacts(
        steps if isinstance(steps, int) else None,
        options,
        data if isinstance(data, dict) else {},
        _last_evaluation(folder),
        sorted(pictures.glob("*.png"))[-MOST_PICTURES:] if pictures.is_dir() else [],
    )


def _last_evaluation(folder: Path) -> Evaluation | None:
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := EVALUATION.fullmatch(path.name))]
    for _, path in sorted(found, reverse=True):
        try:
            return read_evaluation(path)
        except UserError:
            continue
    return None
