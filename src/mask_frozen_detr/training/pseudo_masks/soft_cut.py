"""A soft mask from a picture and a box: no label, nothing to install (not in the paper).

The pixels in and around a box are put into clusters of like colour. A cluster that lies mostly outside the box is
background, one that lies mostly within it the object; what is taken for the object is smoothed along the picture's
edges, and clusters are judged by it anew, some times over. Nothing outside the box ever belongs to the object.
Boxes fit tightly, so that a place near the box's middle is likelier to be the object than one near its corners.
Several windows and numbers of clusters are averaged: what they do not agree on is left soft.

GrabCut (Rother et al., SIGGRAPH 2004) has the same idea, with hard masks; the smoothing is the guided filter (He et
al., TPAMI 2013). Beside GrabCut's, these masks never collapse to nothing where object and background look alike.

Letters: h × w pixels of the window, N = h · w, K clusters, S cells a side of the mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.cluster.vq import vq
from scipy.ndimage import map_coordinates, uniform_filter

from mask_frozen_detr.data.validation import Annotation
from mask_frozen_detr.training.box_masks import MASK_SIDE

Box = tuple[float, float, float, float]  # x0, y0, x1, y1

LONGEST = 4.0  # times that a small object is enlarged at most
MIDDLE, CORNER = 0.95, 0.5  # chance that a place is the object's, before anything is seen
OUTSIDE = 1e-3  # never 0, whose odds are no number
UNSURE = 0.02  # however sure a network is
TOO_FULL = 0.5  # log-odds by which networks that learned from boxes take too much for the object
LIGHTNESS_WEIGHT = 0.5  # shadows change the lightness of a thing, not its colour
ROUNDS = 4
FITTED = 2500  # pixels that the clusters are fitted to
FITS = 8
RADIUS, FLATNESS = 3, 1e-3  # of the guided filter: pixels, and the variance (Lab / 100)² that is no edge


@dataclass(frozen=True)
class Window:
    """One way to look at an object. margin: what is seen around the box, as a share of its sides. side: pixels of the
    box's longer side. clusters: K.
    """

    margin: float
    side: int
    clusters: int


WINDOWS = (Window(0.4, 64, 32), Window(0.8, 48, 24))


def soft_cut(
    image: Image.Image, box: Box, evidence: np.ndarray | None = None, drawn: np.ndarray | None = None
) -> np.ndarray:
    """The chance that each cell of a box is the object's.

    image: RGB. box: in its pixels, with area, at least partly within the image. evidence: (V, V) log-odds that are
    known of its cells besides. drawn: (S, S) uint8, chances that a network gives, in the place of the guess that the
    middle of a box is the object's. Both lie over the part of the box within the image.
    Returns: (S, S) uint8, 0 … 255, over the part of the box within the image.
    """
    cut = inside_image(box, image.width, image.height)
    known: list[np.ndarray] = [] if evidence is None else [evidence.astype(np.float32)]
    if drawn is not None:
        known.append(_odds((drawn / np.float32(255)).clip(UNSURE, 1 - UNSURE)) - TOO_FULL)
    masks = [_cut_window(image, cut, window, known, guess=drawn is None) for window in WINDOWS]
    return np.round(255 * np.mean(masks, axis=0)).astype(np.uint8)


def corners(annotation: Annotation) -> Box:
    """An object's box as x0, y0, x1, y1."""
    x, y, w, h = annotation.bbox
    return x, y, x + w, y + h


def inside_image(box: Box, width: int, height: int) -> Box:
    """The part of a box within its image."""
    return max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))


def _cut_window(image: Image.Image, box: Box, window: Window, known: Sequence[np.ndarray], guess: bool) -> np.ndarray:
    """(S, S) float32 over the box, of one window. known: log-odds over the box. guess: that its middle is likelier."""
    x0, y0, x1, y1 = box
    wide, high = max(window.margin * (x1 - x0), 4.0), max(window.margin * (y1 - y0), 4.0)
    region = inside_image((x0 - wide, y0 - high, x1 + wide, y1 + high), image.width, image.height)
    scale = min(window.side / max(x1 - x0, y1 - y0), LONGEST)
    w, h = (max(8, round((region[side + 2] - region[side]) * scale)) for side in (0, 1))
    seen = image.resize((w, h), Image.Resampling.BILINEAR, box=region, reducing_gap=2.0)
    sx, sy = w / (region[2] - region[0]), h / (region[3] - region[1])
    inner = ((x0 - region[0]) * sx, (y0 - region[1]) * sy, (x1 - region[0]) * sx, (y1 - region[1]) * sy)
    prior, inside = _prior(h, w, inner)
    if known:
        odds = sum((_over_window(each, inner, h, w) for each in known), _odds(prior) if guess else 0)
        prior = np.where(inside, 1 / (1 + np.exp(-odds)), OUTSIDE)
    chance = _chances(_lab(np.asarray(seen)), prior, inside, window.clusters)
    return np.asarray(Image.fromarray(chance).resize((MASK_SIDE,) * 2, Image.Resampling.BILINEAR, box=inner))


def _chances(lab: np.ndarray, prior: np.ndarray, inside: np.ndarray, clusters: int) -> np.ndarray:
    """(h, w, 3) Lab / 100, (h, w) chances before it is seen, and what is within the box → (h, w) float32."""
    h, w = lab.shape[:2]
    prior_odds = _odds(prior)
    label = _clusters(lab.reshape(-1, 3) * [LIGHTNESS_WEIGHT, 1, 1], clusters)  # (N,)
    size = np.bincount(label, minlength=clusters)  # (K,)
    chance = prior * inside
    for _ in range(ROUNDS):
        taken = np.bincount(label, weights=chance.ravel(), minlength=clusters)
        share = (taken + 1) / (size + 2)
        odds = _odds(share) - _odds(chance.mean().clip(1e-3, 1 - 1e-3))
        chance = inside / (1 + np.exp(-(odds[label].reshape(h, w) + prior_odds)))
        chance = _smooth(lab, chance.astype(np.float32)).clip(0, 1) * inside
    return chance.astype(np.float32)


def _prior(h: int, w: int, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) chances before anything is seen, and whether a pixel is within the box."""
    x, y = np.arange(w) + 0.5, np.arange(h) + 0.5
    inside = ((y >= box[1]) & (y < box[3]))[:, None] & ((x >= box[0]) & (x < box[2]))
    off_x = (x - (box[0] + box[2]) / 2) / ((box[2] - box[0]) / 2)
    off_y = (y - (box[1] + box[3]) / 2) / ((box[3] - box[1]) / 2)
    distance = off_x**2 + off_y[:, None] ** 2  # 1 on the ellipse that touches the box's sides
    return np.where(inside, MIDDLE - (MIDDLE - CORNER) * distance.clip(0, 1.5), OUTSIDE), inside


def _over_window(values: np.ndarray, box: Box, h: int, w: int) -> np.ndarray:
    """(V, V) values over a box, between their centres linearly, at the (h, w) pixels that the box lies in."""
    side = len(values)
    rows, columns = (
        ((np.arange(length) + 0.5 - low) / (high - low) * side - 0.5).clip(0, side - 1)
        for length, low, high in ((h, box[1], box[3]), (w, box[0], box[2]))
    )
    return map_coordinates(values, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest")


def _clusters(points: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` clusters each point (N, d) is in: Lloyd's algorithm, from points drawn by a fixed seed."""
    rng = np.random.default_rng(0)
    some = points[rng.choice(len(points), min(FITTED, len(points)), replace=False)]
    centres = some[np.linspace(0, len(some) - 1, count).astype(int)]
    for _ in range(FITS):
        label, _ = vq(some, centres)
        size = np.bincount(label, minlength=count)
        sums = np.stack([np.bincount(label, weights=column, minlength=count) for column in some.T], 1)
        centres = np.where(size[:, None] > 0, sums / size.clip(1)[:, None], centres)
    return vq(points, centres)[0]


def _smooth(guide: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The guided filter of (h, w) values by each channel of (h, w, c), averaged."""

    def mean(array: np.ndarray) -> np.ndarray:
        return uniform_filter(array, 2 * RADIUS + 1, mode="nearest")

    of_values, out = mean(values), np.zeros_like(values)
    for channel in np.moveaxis(guide, -1, 0):
        centre = mean(channel)
        slope = (mean(channel * values) - centre * of_values) / (mean(channel**2) - centre**2 + FLATNESS)
        out += mean(slope) * channel + mean(of_values - slope * centre)
    return out / guide.shape[-1]


def _odds(chance: np.ndarray) -> np.ndarray:
    return np.log(chance / (1 - chance))


def _lab(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 sRGB → float32 CIE Lab (D65) / 100."""
    linear = np.where(rgb <= 10, rgb / (255 * 12.92), ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    xyz = linear @ (matrix / matrix.sum(1, keepdims=True)).T
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], -1).astype(np.float32)
