"""What tests of exported models share: pictures, edited folders, and when one finds the same as torch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask_frozen_detr.results.instances import Instances


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coarse noise, so that rounding of resized pixels stays small."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def edit(folder: Path, **changes: Any) -> None:
    """Changes what model.json says, as of a version that wrote no checksum of it."""
    content = json.loads((folder / "model.json").read_text())
    del content["checksum"]
    (folder / "model.json").write_text(json.dumps({**content, **changes}))


def assert_same(ours: Instances, theirs: Instances) -> None:
    """As found by torch, up to rounding: a pixel at the very threshold may fall on either side."""
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.class_scores, theirs.class_scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.02)
    assert (ours.masks != theirs.masks).mean() < 1e-3
