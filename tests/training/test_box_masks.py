"""Masks on the grid of a box against full-resolution masks: geometry to a small part of a cell."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mask_frozen_detr.training.box_masks import box_mask

W, H = 320, 240
COCO_549 = Path(__file__).parents[2].parent / "shared" / "data" / "coco-549"


def full_mask(polygons, width=W, height=H) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def rle_of(mask: np.ndarray) -> dict:
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))


def random_polygon(rng, smallest=40.0, largest=100.0) -> list[float]:
    """A star-shaped, concave polygon of 5 to 24 points; it may reach out of the image."""
    n = int(rng.integers(5, 25))
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    radius = rng.uniform(smallest, largest) * rng.uniform(0.6, 1, n)
    return (
        np.stack([rng.uniform(0, W) + radius * np.cos(angle), rng.uniform(0, H) + radius * np.sin(angle)], 1)
        .ravel()
        .tolist()
    )


def sampled_at_centres(mask: np.ndarray, frame, size: int) -> np.ndarray:
    """The full-resolution mask's pixel under each cell centre, 0 outside the image."""
    x0, y0, x1, y1 = frame
    x = np.floor(x0 + (np.arange(size) + 0.5) * (x1 - x0) / size).astype(int)
    y = np.floor(y0 + (np.arange(size) + 0.5) * (y1 - y0) / size).astype(int)
    padded = np.pad(mask, 1)
    return padded[np.clip(y + 1, 0, mask.shape[0] + 1)[:, None], np.clip(x + 1, 0, mask.shape[1] + 1)]


def iou(a, b) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def centroid(mask: np.ndarray) -> np.ndarray:
    return np.array([indices.mean() for indices in np.nonzero(mask)[::-1]])


def agreement(size: int, shift: float = 0.0, as_rle: bool = False) -> tuple[float, np.ndarray]:
    """Mean IoU and mean centroid offset (x, y, cells) of masks whose box is off by `shift` cells."""
    rng = np.random.default_rng(7)
    ious, offsets = [], []
    for _ in range(400):
        polygon = random_polygon(rng)
        mask = full_mask([polygon])
        if mask.sum() < 1500:
            continue
        x, y, w, h = coco_mask.toBbox(rle_of(mask))
        x0, y0, x1, y1 = frame = np.array([x, y, x + w, y + h]) + rng.uniform(-6, 6, 4)
        cell = np.array([(x1 - x0) / size, (y1 - y0) / size] * 2)
        found = box_mask(rle_of(mask) if as_rle else [polygon], tuple(frame - shift * cell), size, (W, H))
        reference = sampled_at_centres(mask, frame, size)
        ious.append(iou(found, reference))
        offsets.append(centroid(found) - centroid(reference))
    assert len(ious) > 200
    return float(np.mean(ious)), np.mean(offsets, axis=0)


@pytest.mark.parametrize("as_rle", [False, True])
@pytest.mark.parametrize("size", [28, 112])
def test_masks_lie_on_the_full_resolution_mask(size, as_rle):
    mean_iou, offset = agreement(size, as_rle=as_rle)
    assert mean_iou > 0.97
    assert np.abs(offset).max() < 0.02, "cells, x and y"


def test_half_a_cell_off_would_be_noticed():
    offset = agreement(112, shift=0.5)[1]
    assert (offset > 0.3).all(), "the test above cannot pass with such a shift"
    mean_iou, offset = agreement(28, shift=0.5)
    assert mean_iou < 0.97
    assert (offset > 0.3).all()


def test_on_the_pixel_grid_a_crop_is_the_full_resolution_mask():
    rng = np.random.default_rng(3)
    for _ in range(100):
        # without negative image coordinates, which pycocotools misplaces at full resolution
        polygons = [np.abs(random_polygon(rng, 10, 60)).tolist() for _ in range(int(rng.integers(1, 4)))]
        x0, y0 = (int(v) for v in rng.integers(0, 100, 2))
        found = box_mask(polygons, (x0, y0, x0 + 128, y0 + 128), 128, (W, H))
        # pycocotools rounds vertices above or left of the box by up to a fifth of a cell otherwise
        assert (found != full_mask(polygons)[y0 : y0 + 128, x0 : x0 + 128]).mean() < 0.002
        from_the_corner = box_mask(polygons, (0, 0, 128, 128), 128, (W, H))
        assert np.array_equal(from_the_corner, full_mask(polygons)[:128, :128])


QUARTER = np.ones((2, 2))
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]
BOW_TIE = [10, 12, 30, 28, 30, 12, 10, 28]


@pytest.mark.parametrize(
    ("polygons", "frame", "expected", "reason"),
    [
        ([SQUARE], (10, 10, 30, 30), np.ones((4, 4)), "integer coordinates are pixel edges"),
        ([SQUARE], (0, 0, 40, 40), np.pad(QUARTER, 1), "the frame is larger than the object"),
        ([SQUARE], (20, 20, 40, 40), np.pad(QUARTER, (0, 2)), "the polygon begins before the frame"),
        ([SQUARE], (15, 15, 15.01, 15.01), np.ones((4, 4)), "a frame thousands of times smaller"),
        ([SQUARE], (9.99, 15, 10.01, 15.01), np.repeat([[0, 0, 1, 1]], 4, 0), "an edge within such a frame"),
        ([SQUARE], (15, 9.5, 16, 10.5), np.repeat([[0, 0, 1, 1]], 4, 0).T, "an edge along x"),
        ([SQUARE], (100, 100, 120, 120), np.zeros((4, 4)), "object and frame apart"),
        ([SQUARE], (30.5, 10, 30.6, 10.1), np.zeros((4, 4)), "apart, and far in cells"),
        ([[10, 10, 20, 10, 20, 30, 10, 30], SQUARE], (10, 10, 30, 30), np.ones((4, 4)), "overlap is a union"),
        ([[10, 10, 20, 10, 20, 30, 10, 30]] * 2, (10, 10, 30, 30), [[1, 1, 0, 0]] * 4, "the same part twice"),
        ([BOW_TIE], (10, 10, 30, 30), np.pad([[1, 0, 0, 1]] * 2, ((1, 1), (0, 0))), "even-odd"),
        ([[-20, -20, 10, -20, 10, 10, -20, 10]], (-10, -10, 10, 10), np.pad(QUARTER, (2, 0)), "empty outside"),
        ([[300, 220, 400, 220, 400, 300, 300, 300]], (310, 230, 330, 250), np.pad(QUARTER, (0, 2)), "too"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)  # fmt: skip
def test_cases(polygons, frame, expected, reason):
    found = box_mask(polygons, frame, 4, (W, H))
    assert found.dtype == np.uint8
    assert found.tolist() == np.asarray(expected).tolist(), reason
    if frame[2] - frame[0] >= 20:  # an RLE knows nothing finer than a pixel
        assert box_mask(rle_of(full_mask(polygons)), frame, 4, (W, H)).tolist() == found.tolist(), f"RLE, {reason}"


def test_shrunk_rle_is_the_majority_of_each_cell():
    rng = np.random.default_rng(5)
    mask = rng.random((60, 80)) < 0.5
    frame, size = (-3.3, 4.25, 71.7, 61.5), 9
    x = np.linspace(frame[0], frame[2], size + 1)
    y = np.linspace(frame[1], frame[3], size + 1)
    share = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            for row, column in np.argwhere(mask):
                covered_x = min(x[j + 1], column + 1) - max(x[j], column)
                covered_y = min(y[i + 1], row + 1) - max(y[i], row)
                share[i, j] += max(covered_x, 0) * max(covered_y, 0)
    share /= (x[1] - x[0]) * (y[1] - y[0])
    assert np.abs(share - 0.5).min() > 1e-6, "no tie decides this test"
    assert np.array_equal(box_mask(rle_of(mask), frame, size, (80, 60)), share > 0.5)


@pytest.mark.parametrize("frame", [(100, 100, 700, 900), (-900, -900, -100, -100), (500, 0, 600, 3)])
def test_rle_outside_its_frame_is_empty(frame):
    found = box_mask(rle_of(np.ones((60, 80))), frame, 8, (80, 60))
    assert found.shape == (8, 8)
    assert not found.any()


@pytest.mark.parametrize("frame", [(5, 5, 5, 9), (5, 5, 9, 4), (0, 0, float("nan"), 9), (0, 0, float("inf"), 9)])
def test_a_frame_without_area_is_refused(frame):
    with pytest.raises(ValueError, match="expected finite x0 < x1"):
        box_mask([SQUARE], frame, 8, (W, H))


def test_a_close_look_at_a_large_object_takes_no_longer():
    rng = np.random.default_rng(1)
    polygon = random_polygon(rng, 3000, 4000)
    start = time.perf_counter()
    for _ in range(20):
        box_mask([polygon], (100, 100, 100.001, 100.001), 112, (10000, 10000))
    assert time.perf_counter() - start < 1, "pycocotools alone would walk along billions of cells"


@pytest.mark.skipif(not COCO_549.is_dir(), reason="needs the COCO images in ../shared/data/coco-549")
def test_pasted_back_coco_masks_are_the_full_resolution_masks():
    data = json.loads((COCO_549 / "annotations" / "instances_val2017.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    ious = []
    for annotation in data["annotations"]:
        width, height = sizes[annotation["image_id"]]
        segmentation = annotation["segmentation"]
        if annotation["iscrowd"]:
            segmentation = coco_mask.frPyObjects(segmentation, height, width)
            mask = coco_mask.decode(segmentation)
        else:
            mask = full_mask(segmentation, width, height)
        x, y, w, h = annotation["bbox"]
        x0, y0, x1, y1 = frame = (x - 1, y - 1, x + w + 1, y + h + 1)
        found = box_mask(segmentation, frame, 112, (width, height))
        columns = np.arange(max(int(x0), 0), min(int(x1) + 1, width))
        rows = np.arange(max(int(y0), 0), min(int(y1) + 1, height))
        seen = mask[rows[:, None], columns]
        assert seen.sum() == mask.sum(), "the frame holds the whole object"
        cell_columns = np.floor((columns + 0.5 - x0) * 112 / (x1 - x0)).astype(int) + 1
        cell_rows = np.floor((rows + 0.5 - y0) * 112 / (y1 - y0)).astype(int) + 1
        pasted = np.pad(found, 1)[cell_rows.clip(0, 113)[:, None], cell_columns.clip(0, 113)]
        ious.append(iou(pasted, seen))
    assert len(ious) == 1786
    assert np.mean(ious) > 0.98
    assert np.percentile(ious, 5) > 0.94
