"""Equation 4 against a literal reference, to the half pixel; equation 2's factor."""

import numpy as np
import pytest
import torch

from mask_frozen_detr.results.paste import Crop, mask_confidence, paste_probabilities

HEIGHT, WIDTH = 30, 40


def reference(mask: np.ndarray, frame: tuple, height: int, width: int) -> np.ndarray:
    """Pixel by pixel at full resolution, straight from the definition."""
    x0, y0, x1, y1 = frame
    rows, columns = mask.shape
    canvas = np.zeros((height, width))
    for py in range(height):
        for px in range(width):
            cx, cy = px + 0.5, py + 0.5
            if not (x0 <= cx < x1 and y0 <= cy < y1):
                continue
            u = min(max((cx - x0) / (x1 - x0) * columns - 0.5, 0), columns - 1)
            v = min(max((cy - y0) / (y1 - y0) * rows - 0.5, 0), rows - 1)
            left, top = int(u), int(v)
            right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
            a, b = u - left, v - top
            upper = (1 - a) * mask[top, left] + a * mask[top, right]
            lower = (1 - a) * mask[bottom, left] + a * mask[bottom, right]
            canvas[py, px] = (1 - b) * upper + b * lower
    return canvas


FRAMES = [
    ((3.0, 4.0, 20.0, 25.0), "whole pixels"),
    ((3.3, 4.7, 20.2, 25.9), "fractions"),
    ((3.5, 4.5, 20.5, 25.5), "borders on pixel centres"),
    ((-7.2, -3.4, 12.1, 15.6), "over the upper left corner"),
    ((25.5, 12.2, 51.0, 44.4), "over the lower right corner"),
    ((-10.0, -10.0, 70.0, 60.0), "larger than the image"),
    ((0.0, 0.0, 40.0, 30.0), "the whole image"),
    ((8.6, 3.0, 9.4, 20.0), "no pixel centre across"),
    ((8.4, 3.0, 9.4, 20.0), "one pixel across"),
    ((5.0, 5.0, 5.0, 5.0), "nothing"),
    ((12.0, 9.0, 4.0, 3.0), "inside out"),
    ((60.0, 3.0, 80.0, 20.0), "right of the image"),
    ((3.0, -30.0, 20.0, -5.0), "above the image"),
]


@pytest.mark.parametrize(("frame", "reason"), FRAMES, ids=[reason for _, reason in FRAMES])
@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (2, 2), (56, 56), (5, 9)])
def test_paste_is_equation_4(shape, frame, reason):
    mask = np.random.default_rng(0).random(shape, dtype=np.float32)
    crop = paste_probabilities(mask, frame, HEIGHT, WIDTH)
    assert crop.values.dtype == np.float32
    np.testing.assert_allclose(
        crop.full(HEIGHT, WIDTH), reference(mask, frame, HEIGHT, WIDTH), atol=1e-6, err_msg=reason
    )


def test_paste_hits_the_half_pixel():
    """A mask with one cell a pixel comes back as it was; a sixteenth of a pixel aside is another picture."""
    mask = np.random.default_rng(1).random((6, 6), dtype=np.float32)
    np.testing.assert_array_equal(paste_probabilities(mask, (4, 5, 10, 11), HEIGHT, WIDTH).values, mask)
    shifted = paste_probabilities(mask, (4.0625, 5, 10.0625, 11), HEIGHT, WIDTH).values
    assert np.abs(shifted[:, :6] - mask).max() > 0.02


def test_paste_keeps_an_edge_where_it_is():
    """A half-full mask is half-full in its box: the 0.5 crossing lies on the same pixel border."""
    mask = np.zeros((32, 32), np.float32)
    mask[:, :16] = 1
    full = paste_probabilities(mask, (2, 3, 34, 27), HEIGHT, WIDTH).above().full(HEIGHT, WIDTH)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[3:27, 2:18] = True
    np.testing.assert_array_equal(full, expected)


def test_paste_undoes_roi_align():
    """What RoIAlign (aligned) reads from a picture lands on the pixels it was read from."""
    from torchvision.ops import roi_align

    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = ((x + 0.5) * 0.011 + (y + 0.5) * 0.017).astype(np.float32)  # bilinear sampling of a plane is exact
    frame = (5.3, 6.1, 30.9, 22.4)
    pooled = roi_align(
        torch.from_numpy(picture)[None, None], [torch.tensor([frame])], 32, sampling_ratio=2, aligned=True
    )
    crop = paste_probabilities(pooled[0, 0].numpy(), frame, HEIGHT, WIDTH)
    inner = crop.values[1:-1, 1:-1]  # the outermost half cell is carried on
    np.testing.assert_allclose(
        inner, picture[crop.y + 1 :, crop.x + 1 :][: inner.shape[0], : inner.shape[1]], atol=1e-5
    )


def test_confidence_is_equation_2():
    probabilities = np.random.default_rng(2).random((20, 17), dtype=np.float32)
    full = Crop(4, 5, probabilities).full(HEIGHT, WIDTH).astype(np.float64)
    expected = full[full > 0.5].sum() / (full > 0.5).sum()
    assert mask_confidence(Crop(4, 5, probabilities)) == pytest.approx(expected, abs=1e-9)
    assert mask_confidence(Crop(4, 5, probabilities), 0.9) > 0.9


@pytest.mark.parametrize(
    "values", [np.zeros((0, 5), np.float32), np.full((3, 3), 0.5, np.float32)], ids=["no pixel", "none above"]
)
def test_confidence_without_a_pixel_above_is_zero(values):
    assert mask_confidence(Crop(0, 0, values)) == 0.0


def test_crop_of_mask_is_the_smallest_piece():
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:9, 7:13] = np.random.default_rng(3).random((5, 6)) > 0.5
    mask[4, 8] = mask[8, 7] = mask[5, 12] = True
    crop = Crop.of_mask(mask)
    assert (crop.x, crop.y, crop.values.shape) == (7, 4, (5, 6))
    np.testing.assert_array_equal(crop.full(HEIGHT, WIDTH), mask)
    nothing = Crop.of_mask(np.zeros((HEIGHT, WIDTH), bool))
    assert nothing.values.size == 0
    assert not nothing.full(HEIGHT, WIDTH).any()
