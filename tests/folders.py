"""What lies in folders: all files, and the metrics of a run."""

import json
from pathlib import Path
from typing import Any

from mask_frozen_detr.run.description import METRICS_FILE


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Each line of a run folder's metrics."""
    return [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
