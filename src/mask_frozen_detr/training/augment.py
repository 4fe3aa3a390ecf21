"""Random views of training images: Deformable DETR's flip, multi-scale resize and crop; large-scale jitter (Table 13).

A view is one region of the source, one output size and a flip, whatever chain of operations it stands for: the image
is resampled once, and a ground-truth box needs one affine map. Padding is no part of it: what batches are padded with
is masked, that of large-scale jitter as well.

The paper's sizes are those of detectors that resize images to 800 (at most 1333) pixels; they scale with the sides
that a detector's own pre-processing resizes to.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from mask_frozen_detr.training.config import AugmentConfig

PAPER_SHORTEST = 800  # the detector's shorter side that the numbers below are made for
SCALES = tuple(range(480, 801, 32))  # shorter sides
CROP_SCALES = (400, 500, 600)  # shorter sides before a crop
CROP_SIDES = (384, 600)
JITTER_SIDE = 1024
JITTER_SCALES = (0.1, 2.0)
SMALLEST_VIEW = 32  # pixels a side: the coarsest maps of detectors are at stride 32, or have one cell then

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class View:
    """What of an image is seen, and how.

    region: x0, y0, x1, y1 of the source, in pixels. size: (w, h) it is resized to. flip: mirrored left to right.
    """

    region: Box
    size: tuple[int, int]
    flip: bool = False

    def image(self, source: Image.Image) -> Image.Image:
        """The view of an RGB image."""
        whole = (0.0, 0.0, float(source.width), float(source.height))
        if self.region != whole or self.size != source.size:
            source = source.resize(self.size, Image.Resampling.BILINEAR, box=self.region)
        if self.flip:
            source = source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return source

    def clip(self, box: Box) -> Box | None:
        """The part of a source box x0, y0, x1, y1 that the view shows, in source pixels; None if there is none."""
        x0, y0 = max(box[0], self.region[0]), max(box[1], self.region[1])
        x1, y1 = min(box[2], self.region[2]), min(box[3], self.region[3])
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def map_box(self, box: Box) -> Box:
        """A source box in pixels of the view."""
        left, top, right, bottom = self.region
        sx, sy = self.size[0] / (right - left), self.size[1] / (bottom - top)
        x0, y0, x1, y1 = (
            (box[0] - left) * sx,
            (box[1] - top) * sy,
            (box[2] - left) * sx,
            (box[3] - top) * sy,
        )
        return (self.size[0] - x1, y0, self.size[0] - x0, y1) if self.flip else (x0, y0, x1, y1)


def draw_view(
    width: int, height: int, config: AugmentConfig, edges: tuple[int, int] | None, rng: np.random.Generator
) -> View:
    """A random view of a width × height image.

    edges: the shorter and the longest side that the detector's own pre-processing resizes to; None for a detector
    that takes no other size than its pre-processing makes, and so gets the view's region alone.
    """
    flip = config.flip and rng.random() < 0.5
    if config.large_scale_jitter and edges is not None:
        return _large_scale_jitter(width, height, flip, round(JITTER_SIDE * edges[0] / PAPER_SHORTEST), rng)
    region = (0.0, 0.0, float(width), float(height))
    if config.crop and rng.random() < 0.5:
        region = _crop_region(width, height, rng)
    w, h = region[2] - region[0], region[3] - region[1]
    if edges is not None and config.multi_scale:
        size = _resized(w, h, rng.choice(SCALES) * edges[0] / PAPER_SHORTEST, edges[1])
    else:
        size = (max(1, round(w)), max(1, round(h)))  # the detector's pre-processing resizes
    return View(region, size, flip)


def jitter_colour(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each times a factor in [1 − strength, 1 + strength]."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    return image


def _resized(width: float, height: float, shortest: float, longest: int) -> tuple[int, int]:
    short, long = min(width, height), max(width, height)
    return _scaled(width, height, min(shortest / short, longest / long))


def _scaled(width: float, height: float, scale: float) -> tuple[int, int]:
    """Thinner than `SMALLEST_VIEW` no view becomes: what is, is stretched."""
    return max(SMALLEST_VIEW, round(width * scale)), max(SMALLEST_VIEW, round(height * scale))


def _crop_region(width: int, height: int, rng: np.random.Generator) -> Box:
    scale = int(rng.choice(CROP_SCALES)) / min(width, height)
    sides = []
    for side in (width * scale, height * scale):
        sides.append(min(side, rng.uniform(min(CROP_SIDES[0], side), min(CROP_SIDES[1], side))))
    w, h = sides[0] / scale, sides[1] / scale
    x, y = rng.uniform(0, width - w) if w < width else 0.0, rng.uniform(0, height - h) if h < height else 0.0
    return float(x), float(y), float(min(x + w, width)), float(min(y + h, height))


def _large_scale_jitter(width: int, height: int, flip: bool, side: int, rng: np.random.Generator) -> View:
    """The image resized to 0.1 … 2.0 times side × side, and what of it a window of that size shows."""
    scale = side / max(width, height) * rng.uniform(*JITTER_SCALES)
    w, h = min(width, side / scale), min(height, side / scale)
    x = rng.uniform(0, width - w) if w < width else 0.0
    y = rng.uniform(0, height - h) if h < height else 0.0
    return View((float(x), float(y), float(x + w), float(y + h)), _scaled(w, h, scale), flip)
