"""Pre-processing as a record: resize, scale, normalise, in numpy and Pillow alone.

What an exported model keeps of its detector's image processor. Letters: h × w pixels of the prepared picture.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["squash", "edges", "edges rounded"]

FINER = 2  # times the detector's size at which a finer look shows a picture
BEND = -0.75  # of the cubic filter, its a


@dataclass(frozen=True)
class Preparation:
    """A picture as a detector wants it.

    fit: "squash" to `size` = (height, width); "edges" to a shorter side of size[0] with a longer one of at most
        size[1], as transformers computes it, or "edges rounded", as DETR's authors do.
    resample: Pillow's number of the filter: 0 nearest, 2 bilinear, 3 bicubic.
    antialias: widen the filter where the picture is made smaller, as Pillow does; False reads the 2 or 4 next pixels.
    scale: of pixel values, then `mean` is subtracted and the rest divided by `std`.
    canvas: (height, width) that a picture must fit into, made smaller than `size` says where it would not; None: any.
    finer_look: also the picture at FINER times the size, its pixels as channels (see `detectors.finer_look`).
    """

    fit: Fit
    size: tuple[int, int]
    resample: int
    antialias: bool
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    canvas: tuple[int, int] | None = None
    finer_look: bool = False

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB picture → (3, h, w) float32, with a finer look (15, h, w)."""
        height, width = self.size_of(image.height, image.width)
        pixels = self._resized(image, height, width)
        if not self.finer_look:
            return pixels
        finer = self._resized(image, FINER * height, FINER * width).reshape(3, height, FINER, width, FINER)
        return np.concatenate([pixels, finer.transpose(0, 2, 4, 1, 3).reshape(-1, height, width)])

    def _resized(self, image: Image.Image, height: int, width: int) -> np.ndarray:
        if self.antialias:
            resized = image.resize((width, height), Image.Resampling(self.resample))
            pixels = np.asarray(resized, np.uint8)
        else:
            pixels = resize_plainly(np.asarray(image, np.uint8), height, width, cubic=self.resample == 3)
        values = pixels.transpose(2, 0, 1).astype(np.float32) * np.float32(self.scale)
        mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (self.mean, self.std))
        return np.ascontiguousarray((values - mean) / std)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) that a picture is resized to."""
        if self.fit == "squash":
            return self.size
        h, w = fit_edges(height, width, *self.size, rounded=self.fit == "edges rounded")
        if self.canvas is None:
            return h, w
        smaller = min(1.0, self.canvas[0] / h, self.canvas[1] / w)
        return max(1, round(h * smaller)), max(1, round(w * smaller))


def fit_edges(height: int, width: int, shortest: int, longest: int, rounded: bool = True) -> tuple[int, int]:
    """(h, w) with a shorter side of `shortest`, or less where the longer one would exceed `longest`.

    Where it would, the shorter side is the nearest whole number; `rounded` makes the longer side of that number, else
    of the exact one. The longer side is truncated to a whole number.
    """
    short, long = min(height, width), max(height, width)
    exact: float = shortest
    if long / short * shortest > longest:
        exact = longest * short / long
    side = round(exact)
    if short == side:
        return height, width
    other = int((side if rounded else exact) * long / short)
    return (other, side) if width < height else (side, other)


def resize_plainly(pixels: np.ndarray, height: int, width: int, cubic: bool) -> np.ndarray:
    """(H, W, C) uint8 → (h, w, C) uint8 from the 2 × 2 or, cubic, 4 × 4 next pixels, however much smaller it becomes.

    As torch's `interpolate` without antialiasing: borders are repeated, and the cubic filter bends as much.
    """
    rows = _taps(pixels.shape[0], height, cubic)
    columns = _taps(pixels.shape[1], width, cubic)
    values = pixels.astype(np.float32)
    values = sum(weight[:, None, None] * values[place] for place, weight in rows)
    values = sum(weight[None, :, None] * values[:, place] for place, weight in columns)
    return np.asarray(values).round().clip(0, 255).astype(np.uint8)


def _taps(old: int, new: int, cubic: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pixels that are read, one after another: where each is (new,), and its weight (new,)."""
    source = (np.arange(new) + 0.5) * (old / new) - 0.5
    if not cubic:
        source = source.clip(min=0)
    before = np.floor(source).astype(np.int64)
    way = (source - before).astype(np.float32)
    near_ones = {0: 1 - way, 1: way}
    weights = {-1: _far(way + 1), 0: _near(way), 1: _near(1 - way), 2: _far(2 - way)} if cubic else near_ones
    return [((before + step).clip(0, old - 1), weight) for step, weight in weights.items()]


def _near(x: np.ndarray) -> np.ndarray:
    return ((BEND + 2) * x - (BEND + 3)) * x * x + 1


def _far(x: np.ndarray) -> np.ndarray:
    return ((BEND * x - 5 * BEND) * x + 8 * BEND) * x - 4 * BEND
