"""What tests of exported models share: pictures, and when an exported model finds the same as torch."""

import numpy as np
from PIL import Image

from mask_frozen_detr.results.instances import Instances


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coarse noise, so that rounding of resized pixels stays small."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height)))


def assert_same(ours: Instances, theirs: Instances) -> None:
    """As found by torch, up to rounding: a pixel at the very threshold may fall on either side."""
    assert ours.names == theirs.names
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
    np.testing.assert_allclose(ours.class_scores, theirs.class_scores, atol=1e-4)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.02)
    assert (ours.masks != theirs.masks).mean() < 1e-3
