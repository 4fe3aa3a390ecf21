"""Which of many annotations are good as they are, at once: what `check_annotation` says of one, it need not say then.

Letters: N annotations, P polygons, C coordinates.
"""

import numpy as np

from mask_frozen_detr.data.validation import FAR


def plainly_good(
    boxes: np.ndarray,
    areas: np.ndarray,
    sizes: np.ndarray,
    polygons: np.ndarray,
    lengths: np.ndarray,
    coordinates: np.ndarray,
) -> np.ndarray:
    """Whether `check_annotation` takes an annotation unchanged and notes nothing; where False, it has to be asked.

    Args:
        boxes: (N, 4) x, y, w, h. areas: (N,). sizes: (N, 2) width and height of their pictures.
        polygons: (N,) how many each has, at least one. lengths: (P,) of how many numbers. coordinates: (C,).

    Returns: (N,) bool.
    """
    good = np.zeros(len(boxes), bool)
    starts = np.cumsum(polygons) - polygons
    drawable = np.logical_and.reduceat((lengths >= 6) & (lengths % 2 == 0), starts)
    if not drawable.any():
        return good
    if not drawable.all():
        of_part = np.repeat(drawable, polygons)
        coordinates, lengths = coordinates[np.repeat(of_part, lengths)], lengths[of_part]
        boxes, areas, sizes, polygons = boxes[drawable], areas[drawable], sizes[drawable], polygons[drawable]
        starts = np.cumsum(polygons) - polygons
    with np.errstate(all="ignore"):  # what is not finite fails every comparison
        good[drawable] = _good(boxes, areas, sizes.astype(np.float64), polygons, starts, lengths // 2, coordinates)
    return good


def _good(
    boxes: np.ndarray,
    areas: np.ndarray,
    sizes: np.ndarray,
    polygons: np.ndarray,
    starts: np.ndarray,
    points: np.ndarray,
    coordinates: np.ndarray,
) -> np.ndarray:
    ends = np.cumsum(points)
    begins = ends - points
    xy = coordinates.reshape(-1, 2)
    low, high = np.minimum.reduceat(xy, begins), np.maximum.reduceat(xy, begins)  # (P, 2)
    following = np.arange(1, len(xy) + 1)
    following[ends - 1] = begins
    x, y = xy[:, 0], xy[:, 1]
    doubled = np.abs(np.add.reduceat(x * y[following] - y * x[following], begins))
    part_sizes = np.repeat(sizes, polygons, axis=0)
    # A tenfold margin: what sums in another order make of a splinter is not decided here.
    has_area = doubled > 1e-5 * np.maximum(1.0, (high - low).prod(1))
    parts = has_area & np.isfinite(doubled) & _within(low, high, part_sizes)
    low, high = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)  # (N, 2)
    begin, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    touching = (begin < high).all(1) & (end > low).all(1)
    box = (boxes[:, 2:] > 0).all(1) & np.isfinite(boxes).all(1) & _within(begin, end, sizes) & touching
    checks = [np.logical_and.reduceat(parts, starts), box, areas > 0, np.isfinite(areas)]
    return np.asarray(np.logical_and.reduce(checks))


def _within(low: np.ndarray, high: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Whether what spans low … high (N, 2) is in its picture, at least in part, and nowhere far from it."""
    inside = (high > 0).all(1) & (low < sizes).all(1)
    near = (low >= -FAR * sizes).all(1) & (high <= (1 + FAR) * sizes).all(1)
    return np.asarray(inside & near)
