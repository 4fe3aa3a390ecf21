"""Pictures, and what `predict` makes of them."""

import json
from pathlib import Path
from typing import Any

from mask_frozen_detr.prediction.files import PREDICTIONS_FILE
from mask_frozen_detr.results.prediction_files import RESULTS_FILE

THRESHOLD = 0.05


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


OWN = {PREDICTIONS_FILE, RESULTS_FILE}


def read(folder: Path, name: str = PREDICTIONS_FILE) -> Any:
    return json.loads((folder / name).read_text())
