"""What a run has written about itself, read for its page: curves, evaluations, options."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mask_frozen_detr.data.validation import are_finite
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.evaluation import Evaluation, read_evaluation
from mask_frozen_detr.machine.json_files import flatten, read_json_object
from mask_frozen_detr.machine.regular_files import read_regular
from mask_frozen_detr.run.description import CONFIG_FILE, METRICS_FILE, TRAINING_FILE

BEST_EVALUATION = "best/evaluation.json"
EVALUATION = re.compile(r"evaluation-(\d+)\.json")
NO_OPTIONS = {"files", "checksum", "run", "class_names", "preprocessing"}  # of training.json


@dataclass(frozen=True)
class History:
    """What a run has recorded.

    metrics: the lines of metrics.jsonl. evaluations: by step. best_step, best: of the weights in best/. options: by
    name, those of a part as "network: mask_width".
    """

    metrics: list[dict[str, Any]] = field(default_factory=list)
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    best_step: int | None = None
    best: Evaluation | None = None

    @property
    def last_step(self) -> int:
        """After which the run ended, as far as it tells: one that stops early need not do so at a line of metrics."""
        return max([*(line["step"] for line in self.metrics[-1:]), *self.evaluations], default=0)


def read_history(folder: Path) -> History:
    """What a run folder has recorded; what is missing or damaged is left out, since the page tells of what is there."""
    evaluations: dict[int, Evaluation] = {}
    for path in folder.iterdir() if folder.is_dir() else []:
        match = EVALUATION.fullmatch(path.name)
        if match:
            evaluations |= _tolerant({}, lambda path=path, step=int(match[1]): {step: read_evaluation(path)})
    options: dict[str, Any] = _tolerant({}, lambda: read_json_object(folder / TRAINING_FILE))
    network = _tolerant({}, lambda: read_json_object(folder / CONFIG_FILE).get("network", {}))
    options = {key: value for key, value in options.items() if key not in NO_OPTIONS}
    return History(
        _lines(folder / METRICS_FILE),
        dict(sorted(evaluations.items())),
        flatten(options | ({"network": network} if network else {}), ": "),
        _tolerant(None, lambda: read_json_object(folder / BEST_EVALUATION).get("step")),
        _tolerant(None, lambda: read_evaluation(folder / BEST_EVALUATION)),
    )


def _tolerant(without: Any, read: Any) -> Any:
    try:
        return read()
    except UserError:
        return without


def _lines(path: Path) -> list[dict[str, Any]]:
    lines = []
    try:
        for text in read_regular(path).decode().splitlines():
            line = json.loads(text)
            if isinstance(line, dict):
                line = {name: value for name, value in line.items() if value is None or are_finite([value])}
                if isinstance(line.get("step"), int):
                    lines.append(line)
    except (OSError, ValueError, RecursionError, UserError):
        return lines  # up to what a kill has torn
    return lines
