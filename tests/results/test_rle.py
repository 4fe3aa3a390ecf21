"""Run lengths from pieces, byte for byte those of pycocotools."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import compress, crop_to_rle, rle_to_crop, rle_to_mask

HEIGHT, WIDTH = 11, 9


def ones(h: int, w: int) -> np.ndarray:
    return np.ones((h, w), bool)


def single(h: int, w: int, y: int, x: int) -> np.ndarray:
    values = np.zeros((h, w), bool)
    values[y, x] = True
    return values


CROPS = [
    (Crop(0, 0, ones(0, 0)), "no piece"),
    (Crop(9, 3, ones(4, 0)), "no column, at the border"),
    (Crop(2, 11, ones(0, 4)), "no row, at the border"),
    (Crop(2, 3, ~ones(4, 5)), "a piece without a pixel"),
    (Crop(0, 0, ones(HEIGHT, WIDTH)), "full mask"),
    (Crop(0, 0, ~ones(HEIGHT, WIDTH)), "empty mask of full size"),
    (Crop(3, 0, ones(HEIGHT, 4)), "full-height columns are one run"),
    (Crop(6, 0, ones(HEIGHT, 3)), "full-height columns to the end"),
    (Crop(0, 0, ones(HEIGHT - 1, WIDTH)), "all but the last row"),
    (Crop(0, 1, ones(HEIGHT - 1, WIDTH)), "all but the first row"),
    (Crop(2, 3, ones(4, 5)), "inside"),
    (Crop(5, 7, ones(4, 4)), "in the last corner"),
    (Crop(0, 0, single(HEIGHT, WIDTH, 0, 0)), "first pixel"),
    (Crop(0, 0, single(HEIGHT, WIDTH, -1, -1)), "last pixel"),
    (Crop(3, 0, single(HEIGHT, 2, -1, 0) | single(HEIGHT, 2, 0, 1)), "a run over a column's end"),
    (Crop(3, 0, single(HEIGHT, 1, -1, 0)), "a column's last pixel"),
    (Crop(3, 0, single(HEIGHT, 2, 0, 0) | single(HEIGHT, 2, -1, 1)), "outer ends of two columns"),
]


@pytest.mark.parametrize(("crop", "reason"), CROPS, ids=[reason for _, reason in CROPS])
def test_named_cases_are_pycocotools_bytes(crop, reason):
    check(crop, HEIGHT, WIDTH)


def test_random_pieces_are_pycocotools_bytes():
    rng = np.random.default_rng(0)
    for _ in range(400):
        height, width = (int(side) for side in rng.integers(1, 30, 2))
        h, w = int(rng.integers(0, height + 1)), int(rng.integers(0, width + 1))
        if rng.random() < 0.3:
            h = height
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        check(Crop(x, y, rng.random((h, w)) < rng.random()), height, width)


def test_long_runs_are_pycocotools_bytes():
    """Counts of several characters each, and their differences of either sign."""
    values = np.zeros((700, 900), bool)
    values[10:690, 100:800] = True
    values[200:300, 300:500] = False
    check(Crop(50, 60, values), 800, 1333)


def check(crop: Crop, height: int, width: int) -> None:
    full = crop.full(height, width)
    expected = coco_mask.encode(np.asfortranarray(full.astype(np.uint8)))
    rle = crop_to_rle(crop, height, width)
    assert rle == {"size": [height, width], "counts": expected["counts"].decode()}
    np.testing.assert_array_equal(rle_to_mask(rle), full)
    np.testing.assert_array_equal(rle_to_crop(rle).full(height, width), full)


def test_uncompressed_counts_are_read():
    rle = {"size": [3, 2], "counts": [1, 3, 2]}
    np.testing.assert_array_equal(rle_to_mask(rle), [[False, True], [True, False], [True, False]])


@pytest.mark.parametrize(
    "counts", [[0, 5], [7], [0, 1, 2, 3, 200, 1], [3, 1000, 31, 32, 33, 1, 15, 16, 17], [0, 4096, 1]]
)
def test_compressed_counts_are_those_of_coco(counts):
    height, width = 1, sum(counts)
    theirs = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    assert compress(np.array(counts)) == theirs["counts"].decode()
