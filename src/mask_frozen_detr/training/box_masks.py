"""Ground-truth masks, each on a small grid over its own box (training targets; the mask losses need no more).

Nothing is rasterised at image size: a polygon is drawn straight onto the grid, an RLE is decoded and sampled.

Geometry: in COCO's polygons integer coordinates are pixel edges: pixel (0, 0) covers [0, 1) × [0, 1), so mapping
onto the grid is a plain scale and shift, without half pixels. pycocotools rounds vertices to fifths of a cell and
cuts fractions off negative ones; of the two fifths beside a column's centre it takes the smaller y, so that masks
lie 0.05 cells too high on average. Correcting that brings COCO's
masks no nearer to the full-resolution ones (IoU 0.983 with and without).

Letters: P points of a polygon, S side of the grid in cells, H, W image.
"""

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

MASK_SIDE = 112  # S of the training targets


def box_mask(
    segmentation: Sequence[Sequence[float]] | dict,
    box: tuple[float, float, float, float],
    size: int,
    image_size: tuple[int, int],
) -> np.ndarray:
    """The part of an object's mask inside a box, on a square grid.

    Args:
        segmentation: polygons in image pixels (each filled by the even-odd rule, then united, as COCO does), or a
            compressed RLE {"size": [H, W], "counts": bytes}.
        box: x0, y0, x1, y1 in image pixels; may reach beyond the image, where the mask is empty.
        size: S, cells a side. Cell (i, j) covers x0 + [j, j + 1)·(x1 − x0)/S and y0 + [i, i + 1)·(y1 − y0)/S.
        image_size: W, H.

    Returns: (S, S) uint8, 0 or 1.
    Raises: ValueError for a box without area.
    """
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, box))):
        raise ValueError(f"box {box}: expected finite x0 < x1 and y0 < y1")
    if isinstance(segmentation, dict):
        return _sample_rle(segmentation, box, size)
    mask = _draw_polygons(segmentation, box, size)
    width, height = image_size
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        inside_y = _inside(y0, y1, size, height)
        inside_x = _inside(x0, x1, size, width)
        mask *= inside_y[:, None] & inside_x
    return mask


def _centres(low: float, high: float, size: int) -> np.ndarray:
    return low + (np.arange(size) + 0.5) * ((high - low) / size)


def _inside(low: float, high: float, size: int, limit: int) -> np.ndarray:
    centres = _centres(low, high, size)
    return (centres >= 0) & (centres < limit)


def _draw_polygons(
    polygons: Sequence[Sequence[float]], box: tuple[float, float, float, float], size: int
) -> np.ndarray:
    x0, y0, x1, y1 = box
    scale_x, scale_y = size / (x1 - x0), size / (y1 - y0)  # cells a pixel
    drawn = []
    for polygon in polygons:
        points = np.array(polygon, dtype=np.float64)  # (2P,): x, y, x, y …
        x, y = points[0::2], points[1::2]
        x -= x0
        x *= scale_x
        y -= y0
        y *= scale_y
        if points.min() < -size or points.max() > 2 * size:
            # pycocotools walks along every edge: one far beyond the grid would cost time and memory without bound
            points = _clip(points.reshape(-1, 2), -size, 2 * size).ravel()
            if not len(points):
                continue
        drawn.append(points)
    if not drawn:
        return np.zeros((size, size), dtype=np.uint8)
    parts = coco_mask.frPyObjects(drawn, size, size)
    return np.ascontiguousarray(coco_mask.decode(parts[0] if len(parts) == 1 else coco_mask.merge(parts)))


def _clip(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """The polygon (P, 2) cut to a square, a side at a time (Sutherland and Hodgman): (P', 2), maybe empty."""
    for axis in (0, 1):
        for sign, bound in ((1, high), (-1, -low)):
            beyond = sign * points[:, axis] - bound  # > 0: outside
            following, beyond_following = np.roll(points, -1, axis=0), np.roll(beyond, -1)
            inside = beyond <= 0
            crosses = inside != (beyond_following <= 0)
            step = np.divide(beyond, beyond - beyond_following, out=np.zeros_like(beyond), where=crosses)
            cuts = points + step[:, None] * (following - points)
            # every point that stays, then the cut of the edge behind it
            points = np.stack([points, cuts], 1)[np.stack([inside, crosses], 1)]
    return points


def _sample_rle(rle: dict, box: tuple[float, float, float, float], size: int) -> np.ndarray:
    x0, y0, x1, y1 = box
    full = coco_mask.decode(rle)  # (H, W), column-major
    height, width = full.shape
    if x1 - x0 <= size and y1 - y0 <= size:  # cells no larger than pixels: the pixel under each centre
        mask = np.zeros((size, size), dtype=np.uint8)
        inside_y, inside_x = _inside(y0, y1, size, height), _inside(x0, x1, size, width)
        rows = _centres(y0, y1, size)[inside_y].astype(np.int64)
        columns = _centres(x0, x1, size)[inside_x].astype(np.int64)
        mask[np.ix_(inside_y, inside_x)] = full[rows[:, None], columns]
        return mask
    edges_x, edges_y = np.linspace(x0, x1, size + 1), np.linspace(y0, y1, size + 1)
    columns = slice(max(int(x0), 0), max(math.ceil(x1), 0))
    strips = np.zeros((size, width), dtype=np.float32)
    strips[:, columns] = _sums_between(full.T[columns], edges_y).T
    covered = _sums_between(strips, edges_x)  # (S, S), pixels of the mask a cell
    return (covered >= 0.5 * (x1 - x0) * (y1 - y0) / size**2).astype(np.uint8)


def _sums_between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Rows (m, n) summed from each of E edges (pixels, maybe fractions) to the next: (m, E − 1)."""
    m, n = values.shape
    edges = edges.clip(0, n)
    first, last = min(int(edges[0]), n - 1), max(math.ceil(edges[-1]), 1)
    total = np.zeros((m, last - first + 1), dtype=np.float32)  # up to each pixel's left edge
    np.cumsum(values[:, first:last], axis=1, out=total[:, 1:])
    left = np.minimum(edges.astype(np.int64), last - 1) - first
    share = (edges - first - left).astype(np.float32)
    return np.diff(total[:, left] * (1 - share) + total[:, left + 1] * share, axis=1)
