"""Ground-truth masks as small crops in the frame of a box (training targets; the paper's mask loss needs no more).

Nothing is rasterised at image size: a polygon is drawn straight into the crop, an RLE is decoded and sampled.

Geometry. In COCO's polygons integer coordinates are pixel edges: pixel (0, 0) covers [0, 1) × [0, 1), so mapping
into the crop is a plain scale and shift, without half pixels. pycocotools rounds vertices to fifths of a pixel
and, of the two fifths beside a column's centre, takes the smaller y: on slanted edges masks lie up to 0.1 pixel
too high, on average over all directions 0.05. A full-resolution mask has this in image pixels, a crop would have
it in cells; `_Y_BIAS` moves the crop onto the full-resolution mask. Of negative coordinates pycocotools cuts the
fraction off instead of rounding; a fifth less makes it round.

Letters: P points of a polygon, S size of the crop in cells, H, W image.
"""

import math
from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask

_Y_BIAS = 0.05  # pycocotools draws this much too high, in pixels of the grid it draws on
_FIFTH = 0.2  # its grid of vertices


def mask_crop(
    segmentation: Sequence[Sequence[float]] | dict,
    frame: tuple[float, float, float, float],
    size: int,
    image_size: tuple[int, int],
) -> np.ndarray:
    """The part of an object's mask inside a frame, on a square grid.

    Args:
        segmentation: polygons in image pixels (each filled by the even-odd rule, then united, as COCO does), or a
            compressed RLE {"size": [H, W], "counts": bytes}.
        frame: x0, y0, x1, y1 in image pixels; may reach beyond the image, where the mask is empty.
        size: S, cells a side. Cell (i, j) covers x0 + [j, j + 1)·(x1 − x0)/S and y0 + [i, i + 1)·(y1 − y0)/S.
        image_size: W, H.

    Returns: (S, S) uint8, 0 or 1.
    Raises: ValueError for a frame without area.
    """
    x0, y0, x1, y1 = frame
    if not (x0 < x1 and y0 < y1 and all(map(math.isfinite, frame))):
        raise ValueError(f"frame {frame}: expected finite x0 < x1 and y0 < y1")
    if isinstance(segmentation, dict):
        return _sample_rle(segmentation, frame, size)
    crop = _draw_polygons(segmentation, frame, size)
    width, height = image_size
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        inside_y = _inside(y0, y1, size, height)
        inside_x = _inside(x0, x1, size, width)
        crop *= inside_y[:, None] & inside_x
    return crop


def _centres(low: float, high: float, size: int) -> np.ndarray:
    return low + (np.arange(size) + 0.5) * ((high - low) / size)


def _inside(low: float, high: float, size: int, limit: int) -> np.ndarray:
    centres = _centres(low, high, size)
    return (centres >= 0) & (centres < limit)


def _draw_polygons(
    polygons: Sequence[Sequence[float]], frame: tuple[float, float, float, float], size: int
) -> np.ndarray:
    x0, y0, x1, y1 = frame
    scale_x, scale_y = size / (x1 - x0), size / (y1 - y0)  # cells a pixel
    shift_y = _Y_BIAS * (1 - scale_y)
    drawn = []
    for polygon in polygons:
        points = np.array(polygon, dtype=np.float64)  # (2P,): x, y, x, y …
        x, y = points[0::2], points[1::2]
        x -= x0
        x *= scale_x
        y -= y0
        y *= scale_y
        y += shift_y
        if points.min() < -size or points.max() > 2 * size:
            # pycocotools walks along every edge: one far beyond the crop would cost time and memory without bound
            points = _clip(points.reshape(-1, 2), -size, 2 * size).ravel()
            if not len(points):
                continue
        negative = points < 0
        if negative.any():
            points[negative] -= _FIFTH
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


def _sample_rle(rle: dict, frame: tuple[float, float, float, float], size: int) -> np.ndarray:
    x0, y0, x1, y1 = frame
    mask = coco_mask.decode(rle)  # (H, W), column-major
    height, width = mask.shape
    if x1 - x0 <= size and y1 - y0 <= size:  # cells no larger than pixels: the pixel under each centre
        crop = np.zeros((size, size), dtype=np.uint8)
        inside_y, inside_x = _inside(y0, y1, size, height), _inside(x0, x1, size, width)
        rows = _centres(y0, y1, size)[inside_y].astype(np.int64)
        columns = _centres(x0, x1, size)[inside_x].astype(np.int64)
        crop[np.ix_(inside_y, inside_x)] = mask[rows[:, None], columns]
        return crop
    edges_x, edges_y = np.linspace(x0, x1, size + 1), np.linspace(y0, y1, size + 1)
    columns = slice(max(int(x0), 0), max(math.ceil(x1), 0))
    strips = np.zeros((size, width), dtype=np.float32)
    strips[:, columns] = _sums_between(mask.T[columns], edges_y).T
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
