"""Whether two predictions are the same."""

import json
from pathlib import Path

import numpy as np

from mask_frozen_detr import Instances

THRESHOLD = 0.01


def same(first: Instances, second: Instances) -> bool:
    fields = ("boxes", "scores", "class_scores", "labels", "masks")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
