"""Random views of training images: Deformable DETR's flip, multi-scale resize and crop; large-scale jitter (Table 13).

A view is one region of the source, one output size and a flip, whatever chain of operations it stands for: the image
is resampled once, and a ground-truth box needs one affine map.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

SCALES = tuple(range(480, 801, 32))  # shorter sides
LONGEST = 1333
CROP_SCALES = (400, 500, 600)  # shorter sides before a crop
CROP_SIDES = (384, 600)
JITTER_SIDE = 1024
JITTER_SCALES = (0.1, 2.0)


@dataclass(frozen=True)
class AugmentConfig:
    """What is drawn for each training image."""

    flip: bool = True
    multi_scale: bool = True  # shorter side 480 … 800, where the detector takes any size; off: the detector's own
    crop: bool = True  # half of the time, a random crop of 384 … 600 first
    large_scale_jitter: bool = False  # instead of the two: resize 0.1 … 2.0, crop 1024
    colour_jitter: float = 0.0  # largest relative change of brightness, contrast and saturation

    @property
    def sets_size(self) -> bool:
        """Whether views come at the size that a detector which takes any size shall see."""
        return self.multi_scale or self.large_scale_jitter

    def __post_init__(self) -> None:
        if not 0 <= self.colour_jitter < 1:
            raise ValueError(f"colour_jitter: found {self.colour_jitter}, expected a number in [0, 1)")


@dataclass(frozen=True)
class View:
    """region: x0, y0, x1, y1 of the source, in pixels. size: (w, h) it is resized to. canvas: (W, H) of the output,
    padded at the right and bottom. flip: mirrored left to right, within the canvas' image part."""

    region: tuple[float, float, float, float]
    size: tuple[int, int]
    canvas: tuple[int, int]
    flip: bool = False

    def image(self, source: Image.Image) -> Image.Image:
        """The view of an RGB image."""
        whole = (0.0, 0.0, float(source.width), float(source.height))
        if self.region != whole or self.size != source.size:
            source = source.resize(self.size, Image.Resampling.BILINEAR, box=self.region)
        if self.flip:
            source = source.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.canvas != self.size:
            padded = Image.new("RGB", self.canvas, (124, 116, 104))  # ImageNet's mean colour
            padded.paste(source, (0, 0))
            source = padded
        return source

    def clip(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float] | None:
        """The part of a source box x0, y0, x1, y1 that the view shows, in source pixels; None if there is none."""
        x0, y0 = max(box[0], self.region[0]), max(box[1], self.region[1])
        x1, y1 = min(box[2], self.region[2]), min(box[3], self.region[3])
        return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None

    def place(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        """A source box in pixels of the output."""
        left, top, right, bottom = self.region
        sx, sy = self.size[0] / (right - left), self.size[1] / (bottom - top)
        x0, y0, x1, y1 = (
            (box[0] - left) * sx,
            (box[1] - top) * sy,
            (box[2] - left) * sx,
            (box[3] - top) * sy,
        )
        return (self.size[0] - x1, y0, self.size[0] - x0, y1) if self.flip else (x0, y0, x1, y1)


def draw_view(width: int, height: int, config: AugmentConfig, resizes_freely: bool, rng: np.random.Generator) -> View:
    """A random view of a width × height image, for a detector that takes any size or squashes to its own."""
    flip = config.flip and rng.random() < 0.5
    if config.large_scale_jitter:
        return _large_scale_jitter(width, height, flip, rng)
    region = (0.0, 0.0, float(width), float(height))
    if config.crop and rng.random() < 0.5:
        region = _crop_region(width, height, rng)
    w, h = region[2] - region[0], region[3] - region[1]
    if resizes_freely and config.multi_scale:
        size = _resized(w, h, int(rng.choice(SCALES)))
    else:
        size = (max(1, round(w)), max(1, round(h)))  # the detector's pre-processing resizes
    return View(region, size, size, flip)


def jitter_colour(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation, each times a factor in [1 − strength, 1 + strength]."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(rng.uniform(1 - strength, 1 + strength)))
    return image


def _resized(width: float, height: float, shortest: int) -> tuple[int, int]:
    short, long = min(width, height), max(width, height)
    scale = min(shortest / short, LONGEST / long)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _crop_region(width: int, height: int, rng: np.random.Generator) -> tuple[float, float, float, float]:
    scale = int(rng.choice(CROP_SCALES)) / min(width, height)
    sides = []
    for side in (width * scale, height * scale):
        sides.append(min(side, rng.uniform(min(CROP_SIDES[0], side), min(CROP_SIDES[1], side))))
    w, h = sides[0] / scale, sides[1] / scale
    x, y = rng.uniform(0, width - w) if w < width else 0.0, rng.uniform(0, height - h) if h < height else 0.0
    return float(x), float(y), float(min(x + w, width)), float(min(y + h, height))


def _large_scale_jitter(width: int, height: int, flip: bool, rng: np.random.Generator) -> View:
    scale = JITTER_SIDE / max(width, height) * rng.uniform(*JITTER_SCALES)
    w, h = min(width, JITTER_SIDE / scale), min(height, JITTER_SIDE / scale)
    x = rng.uniform(0, width - w) if w < width else 0.0
    y = rng.uniform(0, height - h) if h < height else 0.0
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    return View((float(x), float(y), float(x + w), float(y + h)), size, (JITTER_SIDE, JITTER_SIDE), flip)
