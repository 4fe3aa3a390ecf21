"""Synthetic scenes in COCO's layout: a data set that needs no download (the project's own; not in the paper).

Six kinds of shape, four of them concave and one with a hole, lie on textured backgrounds at random sizes and
angles; later shapes cover earlier ones, only what stays visible is annotated. The seed decides all.
Letters: H, W image, h, w crop around one shape, N points.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.results.contours import encode_mask

SIDES = (160, 256)  # image sides are drawn from this range, pixels
OBJECTS = (3, 8)  # objects a scene
RADII = (9.0, 84.0)  # circumscribed radius, pixels, drawn log-uniformly
SUPERSAMPLING = 4  # shapes are drawn this much larger, then averaged down
MIN_VISIBLE_PIXELS = 40
MIN_VISIBLE_SHARE = 0.5  # of what an object shows before another one covers it
PLACEMENTS = 12  # tries for one object before it is given up

SCENE_DETECTOR = Path(__file__).parents[1] / "assets" / "scene-detector"  # finds these shapes' boxes

Rings = list[tuple[np.ndarray, int]]  # (N, 2) points within the unit circle, and 1 to draw or 0 to cut them out
SceneObjects = list[tuple[int, np.ndarray]]  # index into CLASSES, (H, W) bool mask of the visible pixels


def _circle(radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0), points: int = 72) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * radius + np.array(centre)


def _disc(rng: np.random.Generator) -> Rings:
    return [(_circle(), 1)]


def _ring(rng: np.random.Generator) -> Rings:
    return [(_circle(), 1), (_circle(rng.uniform(0.45, 0.68)), 0)]


def _star(rng: np.random.Generator) -> Rings:
    tips = int(rng.integers(5, 7))
    radius = np.where(np.arange(2 * tips) % 2 == 0, 1.0, rng.uniform(0.4, 0.52))
    return [(_circle(points=2 * tips) * radius[:, None], 1)]


def _crescent(rng: np.random.Generator) -> Rings:
    return [(_circle(), 1), (_circle(rng.uniform(0.75, 0.88), centre=(rng.uniform(0.38, 0.5), 0.0)), 0)]


def _cross(rng: np.random.Generator) -> Rings:
    a, b = rng.uniform(0.22, 0.36), 0.93
    arm, quarter_turn = np.array([(b, -a), (b, a), (a, a)]), np.array([(0, 1), (-1, 0)])
    return [(np.concatenate([arm @ np.linalg.matrix_power(quarter_turn, k) for k in range(4)]), 1)]


def _bolt(rng: np.random.Generator) -> Rings:
    outline = [
        (0.18, -1.0),
        (-0.52, 0.14),
        (-0.06, 0.14),
        (-0.24, 1.0),
        (0.52, -0.22),
        (0.08, -0.22),
        (0.5, -1.0),
    ]
    return [(np.array(outline) * 0.92, 1)]


SHAPES: dict[str, Callable[[np.random.Generator], Rings]] = {
    "disc": _disc,
    "ring": _ring,
    "star": _star,
    "crescent": _crescent,
    "cross": _cross,
    "bolt": _bolt,
}
CLASSES = tuple(SHAPES)  # class index → name; COCO category ids are index + 1


def _coverage(rings: Rings, turn: np.ndarray, centre: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased (h, w) coverage in [0, 1] of rings, mapped by the (2, 2) `turn` and moved to `centre`."""
    s = SUPERSAMPLING
    canvas = Image.new("L", (width * s, height * s))
    draw = ImageDraw.Draw(canvas)
    for points, inside in rings:
        # PIL's integer coordinates name pixel centres: hence the half pixel
        mapped = (points @ turn.T + centre) * s - 0.5
        draw.polygon([tuple(point) for point in mapped.tolist()], fill=255 * inside)
    return np.asarray(canvas.reduce(s), dtype=np.float32) / 255


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    """(3,) RGB in [0, 1] from hue, saturation and value in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue * 6) % 6
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)


def _pattern(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, period: float) -> np.ndarray:
    """A texture in [0, 1] over coordinate grids: plain, stripes, checks, dots or waves."""
    kind, angle, phases = rng.integers(5), rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi, 2)
    if kind == 0:
        return np.zeros(np.broadcast_shapes(x.shape, y.shape), np.float32)
    along, across = (np.float32(f(angle) * 2 * np.pi / period) for f in (np.cos, np.sin))
    x, y = x.astype(np.float32), y.astype(np.float32)
    u = (x * along + np.float32(phases[0])) + y * across
    v = (y * along + np.float32(phases[1])) - x * across
    if kind == 1:
        return np.clip(np.sin(u) * 3 + 0.5, 0, 1)
    if kind == 2:
        return np.clip(np.sin(u) * np.sin(v) * 5 + 0.5, 0, 1)
    if kind == 3:
        return np.clip((np.cos(u) + np.cos(v) - 1.0) * 3 + 0.5, 0, 1)
    return 0.5 + 0.5 * np.sin(u + 1.2 * np.sin(v * 0.5))


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) in [0, 1]: a gradient between two muted colours, soft clouds and a faint texture."""
    y, x = np.ogrid[:height, :width]
    hue = rng.uniform()
    ends = [_hsv((hue + rng.uniform(-0.12, 0.12)) % 1, rng.uniform(0.05, 0.4), rng.uniform(0.3, 0.9)) for _ in range(2)]
    angle = rng.uniform(0, 2 * np.pi)
    slope = x / width * np.cos(angle) + y / height * np.sin(angle)
    slope = ((slope - slope.min()) / np.ptp(slope)).astype(np.float32)
    cells = rng.uniform(0, 255, (int(rng.integers(3, 9)), int(rng.integers(3, 9)))).astype(np.uint8)
    clouds = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    texture = _pattern(rng, x, y, rng.uniform(8, 40))
    shade = (clouds - 0.5) * np.float32(rng.uniform(0.05, 0.3)) + (texture - 0.5) * np.float32(rng.uniform(0.0, 0.12))
    return ends[0] + (ends[1] - ends[0]) * slope[..., None] + shade[..., None]


def _paint(rng: np.random.Generator, height: int, width: int, radius: float) -> np.ndarray:
    """(h, w, 3) in [0, 1]: one object's fill, two shades of a hue in a texture, lit from one side."""
    y, x = np.ogrid[:height, :width]
    hue, saturation, value = rng.uniform(), rng.uniform(0.45, 1.0), rng.uniform(0.45, 1.0)
    other = _hsv(
        (hue + rng.uniform(-0.1, 0.1)) % 1,
        saturation * rng.uniform(0.5, 1),
        np.clip(value + rng.uniform(-0.35, 0.35), 0.25, 1),
    )
    first = _hsv(hue, saturation, value)
    texture = _pattern(rng, x, y, max(4.0, radius * rng.uniform(0.25, 0.9)))[..., None]
    angle = rng.uniform(0, 2 * np.pi)
    light = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
    shading = (1 + light * rng.uniform(0.0, 0.22) / radius).astype(np.float32)
    return (first + (other - first) * texture) * shading[..., None]


def _blend(canvas: np.ndarray, paint: np.ndarray, alpha: np.ndarray, top: int, left: int) -> None:
    """Lays (h, w, 3) paint with (h, w) alpha over the (H, W, 3) canvas in place, cut to the canvas."""
    height, width = canvas.shape[:2]
    y0, x0, y1, x1 = (
        max(top, 0),
        max(left, 0),
        min(top + alpha.shape[0], height),
        min(left + alpha.shape[1], width),
    )
    if y0 >= y1 or x0 >= x1:
        return
    inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    under = canvas[y0:y1, x0:x1]
    under += (paint[inner] - under) * alpha[inner][..., None]


def render_scene(seed: int | Sequence[int]) -> tuple[Image.Image, SceneObjects]:
    """One scene, the same for the same seed.

    Returns the RGB image, its sides within `SIDES`, and, in drawing order, one (class index, mask) an object;
    masks are (H, W) bool, disjoint, and hold the visible pixels only, at least `MIN_VISIBLE_PIXELS` of them.
    """
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(SIDES[0], SIDES[1] + 1, 2))
    canvas = _background(rng, height, width)
    owner = np.full((height, width), -1, dtype=np.int16)  # which object each pixel belongs to
    classes: list[int] = []
    shown: list[int] = []  # pixels each object showed when it was drawn

    count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
    radii = np.exp(rng.uniform(np.log(RADII[0]), np.log(RADII[1]), count))
    radii = radii[np.argsort(-radii * rng.uniform(0.5, 1.5, count))]  # mostly the large ones first
    for radius in radii:
        kind = int(rng.integers(len(CLASSES)))
        rings = SHAPES[CLASSES[kind]](rng)
        angle, squash = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = radius * rotation @ np.diag([1.0, squash])
        half = int(np.ceil(radius)) + 2
        margin = 0.35 * radius  # an object may leave the image by up to 65 % of its radius
        for _ in range(PLACEMENTS):
            centre = np.array([rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)])
            left, top = (int(np.floor(c)) - half for c in centre)
            alpha = _coverage(rings, turn, centre - (left, top), 2 * half, 2 * half)
            mask = np.zeros((height, width), dtype=np.float32)
            _blend(mask[..., None], np.ones((*alpha.shape, 1), np.float32), alpha, top, left)
            visible = mask >= 0.5
            if visible.sum() < MIN_VISIBLE_PIXELS:
                continue
            left_over = np.bincount(owner[~visible & (owner >= 0)], minlength=len(shown))
            if any(left_over < np.maximum(MIN_VISIBLE_PIXELS, MIN_VISIBLE_SHARE * np.array(shown))):
                continue
            if rng.uniform() < 0.6:  # a soft shadow, cast on everything below
                blurred = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
                shadow = np.asarray(blurred, np.float32) / 255 * 0.35
                _blend(canvas, np.zeros((*alpha.shape, 3), np.float32), shadow, top + 2, left + 1)
            _blend(canvas, _paint(rng, 2 * half, 2 * half, radius), alpha, top, left)
            owner[visible] = len(classes)
            shown.append(int(visible.sum()))
            classes.append(kind)
            break

    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(rng.uniform(0.0, 0.03))
    image = Image.fromarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8))
    return image, [(kind, owner == index) for index, kind in enumerate(classes)]


def _annotation(mask: np.ndarray, category: int, image: int, identity: int) -> dict:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return {
        "id": identity,
        "image_id": image,
        "category_id": category,
        "segmentation": encode_mask(mask),
        "area": float(mask.sum()),
        "bbox": [float(left), float(top), float(columns[-1] + 1 - left), float(rows[-1] + 1 - top)],
        "iscrowd": 0,
    }


def _render_split(root: Path, split: str, count: int, seeds: tuple[int, int], first_id: int) -> None:
    """`count` scenes into ROOT/split/ and ROOT/annotations/; image ids start at `first_id`."""
    (root / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(count):
        image, objects = render_scene((*seeds, index))
        identity, name = first_id + index, f"{first_id + index:012d}.jpg"
        image.save(root / split / name, quality=92)
        images.append({"id": identity, "file_name": name, "width": image.width, "height": image.height})
        for kind, mask in objects:
            annotations.append(_annotation(mask, kind + 1, identity, len(annotations) + 1))
    record = {
        "info": {"description": f"Synthetic scenes, {split}", "seed": seeds[0], "version": "1"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k + 1, "name": name, "supercategory": "shape"} for k, name in enumerate(CLASSES)],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(record))


def render_scenes(folder: str | os.PathLike, train: int = 300, val: int = 100, seed: int = 0) -> Path:
    """Writes a data set in COCO's layout and returns its folder.

    FOLDER/annotations/instances_train2017.json and instances_val2017.json, FOLDER/train2017/*.jpg and
    val2017/*.jpg. All is built in a folder beside and then renamed: FOLDER is whole or absent.

    Raises `UserError` where FOLDER exists and is not empty, or a count is below one.
    """
    target = Path(folder)
    for option, count in (("train", train), ("val", val)):
        if count < 1:
            raise UserError(f"{option}: found {count} scenes, expected at least 1")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists already, expected an absent or empty folder to write the scenes to")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (building / "annotations").mkdir()
        _render_split(building, "train2017", train, (seed, 0), 1)
        _render_split(building, "val2017", val, (seed, 1), train + 1)
        building.chmod(0o755)  # mkdtemp's folders are private
        os.replace(building, target)
    except BaseException:  # an interrupt, too, must leave nothing half-made
        shutil.rmtree(building, ignore_errors=True)
        raise
    return target
