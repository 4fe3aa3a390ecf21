"""From an instance's r × r mask to its pixels (paper, equation 4), and equation 2's factor.

Only the piece of the image that a frame covers is ever made: a full-resolution stack of 100 masks would be 400 MB.
Letters: M masks, r side of a mask, H × W image, h × w a piece of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCK = 2**20  # numbers that are computed at a time


@dataclass(frozen=True, eq=False)
class Crop:
    """A piece of a full-resolution mask; everything outside it is 0.

    x, y: the image pixel of the piece's top left corner.
    values: (h, w) float32 probabilities or bool; h or w may be 0.
    """

    x: int
    y: int
    values: np.ndarray

    @classmethod
    def of_mask(cls, mask: np.ndarray) -> "Crop":
        """The smallest piece that holds all of the non-zero pixels of (H, W) `mask`."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(0, 0, mask[:0, :0])
        return cls(int(columns[0]), int(rows[0]), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy())

    def above(self, threshold: float = 0.5) -> "Crop":
        """The binary mask: where the probability is over `threshold`, values (h, w) bool."""
        return Crop(self.x, self.y, self.values > threshold)

    def within(self, x0: float, y0: float, x1: float, y1: float) -> "Crop":
        """What of it lies in a box of the image: the pixels whose centres do."""
        h, w = self.values.shape
        left, right = (min(max(math.ceil(side - 0.5) - self.x, 0), w) for side in (x0, x1))
        top, bottom = (min(max(math.ceil(side - 0.5) - self.y, 0), h) for side in (y0, y1))
        return Crop(self.x + left, self.y + top, self.values[top:bottom, left:right])

    def full(self, height: int, width: int) -> np.ndarray:
        """The piece in its image: (H, W) of the values' type."""
        canvas = np.zeros((height, width), self.values.dtype)
        h, w = self.values.shape
        canvas[self.y : self.y + h, self.x : self.x + w] = self.values
        return canvas


def paste_probabilities(mask: np.ndarray, frame: Sequence[float], height: int, width: int) -> Crop:
    """Equation 4's interpolate and paste of one mask.

    mask: (r, r) float32 probabilities that cover `frame`, cell i's centre lying (i + 0.5) / r along it, as in
        RoIAlign (aligned).
    frame: x0, y0, x1, y1 in image pixels, not necessarily within the image.
    Returns: (h, w) float32 over the pixels whose centre lies within both frame and image, bilinear between cells'
        centres, the outermost cells carrying on to the frame's border.
    """
    x0, y0, x1, y1 = (float(side) for side in frame)
    x, left, across = _sources(x0, x1, mask.shape[1], width)
    y, top, down = _sources(y0, y1, mask.shape[0], height)
    columns = _blend(mask.T, left, across).T  # (r, w)
    return Crop(x, y, _blend(np.ascontiguousarray(columns), top, down))


def mask_confidence(crop: Crop, threshold: float = 0.5) -> float:
    """Equation 2's factor: the mean probability of the pixels over `threshold`; 0 without such a pixel."""
    inside = crop.values > threshold  # (h, w)
    count = np.count_nonzero(inside)
    return float(np.sum(crop.values, where=inside, dtype=np.float64) / count) if count else 0.0


def _sources(low: float, high: float, cells: int, pixels: int) -> tuple[int, np.ndarray, np.ndarray]:
    """One axis: the first pixel whose centre lies in [low, high); for each such pixel the cell before its centre,
    and how far, 0 to 1, it is on the way to the next cell.
    """
    first = min(max(math.ceil(low - 0.5), 0), pixels)
    last = min(max(math.ceil(high - 0.5), first), pixels)
    if last == first:
        return first, np.zeros(0, np.int64), np.zeros(0, np.float32)
    source = (np.arange(first, last) + 0.5 - low) / (high - low) * cells - 0.5
    source = source.clip(0, cells - 1)
    before = source.astype(np.int64)
    return first, before, (source - before).astype(np.float32)


def _blend(cells: np.ndarray, before: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Rows between rows: (c, k) → (n, k), row i lying `fraction[i]` of the way from row `before[i]` to the next.

    Whole rows are gathered, which is faster than the product with an (n, c) matrix and no slower for a large c.
    """
    step = np.zeros_like(cells)
    np.subtract(cells[1:], cells[:-1], out=step[:-1])
    blended = np.empty((len(before), cells.shape[1]), cells.dtype)  # (n, k)
    rows = max(1, BLOCK // max(1, cells.shape[1]))
    for start in range(0, len(before), rows):  # or a mask of 80 megapixels would take 320 MB twice
        part = slice(start, start + rows)
        np.take(step, before[part], axis=0, out=blended[part], mode="clip")  # other modes copy
        blended[part] *= fraction[part, None]
        blended[part] += cells.take(before[part], axis=0)
    return blended
