"""Pictures: overlays of masks and boxes, ground truth, probability maps (paper, figures 4 and 8), picture walls.

Masks are filled and outlined from their crops, pixel by pixel: an outline is the mask's own outermost pixels.
Letters: H × W image, h × w a piece of it.
"""

import colorsys
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.results.fonts import label, text_width, write_text
from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.label_placement import place_labels
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import rle_to_crop, segmentation_to_rle

Colour = tuple[int, int, int]

FILL = 0.42  # how much of the colour a mask's inside takes
HEAT = 0.6  # how much of the colour a probability map takes
SMALLEST_TEXT = 10  # pixels
PANEL = 240  # side of a probability map's panel, pixels
MOST_PANELS = 48
CELL = 400  # side of a cell of a picture wall, pixels
GAP = 8  # between panels and cells, pixels


def draw_instances(image: Image.Image, instances: Instances, font: Path | None = None) -> Image.Image:
    """Masks, thin boxes and labels with the masks' scores over `image`, which stays as it is.

    font: a font file for the labels; by default Pillow's own, and the system's for letters that it lacks. A label
    wider than the picture is left out. Raises ValueError where image and instances are not of one size.
    """
    texts = [f"{label(name)} {score:.2f}" for name, score in zip(instances.names, instances.scores, strict=True)]
    if instances.tracks is not None:
        texts = [
            f"#{track} {text}" if track >= 0 else text for track, text in zip(instances.tracks, texts, strict=True)
        ]
    return _overlay(image, instances, texts, font)


def draw_boxes(image: Image.Image, instances: Instances) -> Image.Image:
    """What the detector alone says: boxes, labels with its own scores."""
    scored = zip(instances.names, instances.class_scores, strict=True)
    return _overlay(image, instances, [f"{label(name)} {score:.2f}" for name, score in scored], None, masks=False)


def draw_truth(image: Image.Image, record: ImageRecord, categories: Mapping[int, str]) -> Image.Image:
    """The ground truth of `image`, drawn as predictions are; categories: category id → name.

    Of an object without a mask the box is drawn alone.
    """
    annotations = record.annotations
    boxes = np.array([a.bbox for a in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    ones = np.ones(len(annotations), np.float32)
    truth = Instances(
        boxes=boxes,
        scores=ones,
        class_scores=ones,
        labels=np.array([a.category_id for a in annotations], np.int64),
        names=[categories[a.category_id] + (" (crowd)" if a.iscrowd else "") for a in annotations],
        crops=[_crop_of_truth(a.segmentation, record) for a in annotations],
        height=record.height,
        width=record.width,
    )
    return draw_named(image, truth)


def draw_named(image: Image.Image, instances: Instances) -> Image.Image:
    """Masks, boxes and names without scores: what is true has none."""
    return _overlay(image, instances, [label(name) for name in instances.names], None)


def _crop_of_truth(segmentation: Any, record: ImageRecord) -> Crop:
    if segmentation is None:
        return Crop(0, 0, np.zeros((0, 0), bool))
    return rle_to_crop(segmentation_to_rle(segmentation, record.height, record.width))


def draw_probability_map(image: Image.Image, probability: np.ndarray) -> Image.Image:
    """Figures 4 and 8: (H, W) probabilities over `image`, red for high and blue for low."""
    if probability.shape != (image.height, image.width):
        raise ValueError(f"found a map of {probability.shape}, expected the image's {(image.height, image.width)}")
    heat = _HEAT_COLOURS[(probability * 255).round().clip(0, 255).astype(np.uint8)]
    return Image.blend(image.convert("RGB"), Image.fromarray(heat), HEAT)


def draw_probability_maps(image: Image.Image, instances: Instances, font: Path | None = None) -> Image.Image:
    """A grid of each instance's surroundings with its probabilities, best first, at most `MOST_PANELS` of them.

    Raises ValueError where the probabilities were not kept, or image and instances are not of one size.
    """
    _check_size(image, instances)
    crops = instances.probability_crops
    if crops is None:
        raise ValueError("the probability maps were not kept: predict with `probabilities=True`")
    panels, titles = [], []
    for i in np.argsort(-instances.scores, kind="stable")[:MOST_PANELS]:
        around = _surroundings(instances.boxes[i], image.width, image.height)
        panels.append(draw_probability_map(image.crop(around), _piece(crops[i], *around)))
        titles.append(f"{label(instances.names[i])} {instances.scores[i]:.2f}")
    if not panels:
        return draw_probability_map(image, np.zeros((image.height, image.width), np.float32))
    columns = math.ceil(math.sqrt(len(panels) * 4 / 3))
    starts = range(0, len(panels), columns)
    rows = [_row(panels[i : i + columns], PANEL, titles[i : i + columns], font) for i in starts]
    return _stack(rows)


def draw_wall(rows: Sequence[Sequence[Image.Image]], column_titles: Sequence[str]) -> Image.Image:
    """A picture wall: rows of pictures, each fitted into `CELL` × `CELL` pixels, under the columns' titles."""
    blank = [Image.new("RGB", (CELL, 1), "white")] * len(column_titles)
    return _stack([_row(blank, CELL, column_titles), *(_row(row, CELL) for row in rows)])


def draw_piece(
    image: Image.Image,
    around: tuple[int, int, int, int],
    side: int,
    shown: Sequence[tuple[np.ndarray | None, Sequence[float], Colour]],
) -> Image.Image:
    """The rectangle x0, y0, x1, y1 of `image`, its longer side at `side` pixels, with masks and boxes without labels.

    shown: for each object its mask as (H, W) bool, if there is one, its box x, y, w, h, and its colour.
    """
    x0, y0, x1, y1 = around
    piece = _fit(image.crop(around), side)
    scale = piece.width / (x1 - x0), piece.height / (y1 - y0)
    canvas = np.array(piece)
    masks = [(mask, colour) for mask, _, colour in shown if mask is not None]
    crops = [
        Crop(0, 0, np.array(Image.fromarray(mask[y0:y1, x0:x1]).resize(piece.size, Image.Resampling.NEAREST)))
        for mask, _ in masks
    ]
    _draw_masks(canvas, crops, [colour for _, colour in masks], 2)
    piece = Image.fromarray(canvas)
    draw = ImageDraw.Draw(piece)
    for _, (x, y, w, h), colour in shown:
        left, top = (x - x0) * scale[0], (y - y0) * scale[1]
        draw.rectangle(
            (left, top, max(left, left + w * scale[0] - 1), max(top, top + h * scale[1] - 1)), outline=colour
        )
    return piece


def _overlay(
    image: Image.Image, instances: Instances, texts: Sequence[str], font: Path | None, masks: bool = True
) -> Image.Image:
    _check_size(image, instances)
    line = max(1, round(min(image.size) / 300))
    tracks = range(len(instances)) if instances.tracks is None else instances.tracks.tolist()
    colours = [_colour(track if track >= 0 else i) for i, track in enumerate(tracks)]
    canvas = np.array(image.convert("RGB"))
    if masks:
        _draw_masks(canvas, instances.crops, colours, line)
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture)
    for i in reversed(range(len(instances))):  # the best on top
        x1, y1, x2, y2 = instances.boxes[i].tolist()
        corners = (math.floor(x1), math.floor(y1), max(math.ceil(x2) - 1, x1), max(math.ceil(y2) - 1, y1))
        draw.rectangle(corners, outline=colours[i], width=max(1, line // 2) if masks else line)
    _draw_labels(draw, texts, instances.boxes.astype(np.float64), colours, picture.size, font)
    return picture


def _check_size(image: Image.Image, instances: Instances) -> None:
    if (image.width, image.height) != (instances.width, instances.height):
        raise ValueError(
            f"found an image of {image.width} × {image.height} pixels, expected the instances' "
            f"{instances.width} × {instances.height}"
        )


def _draw_masks(canvas: np.ndarray, crops: Sequence[Crop], colours: Sequence[Colour], line: int) -> None:
    """Fill and outline into (H, W, 3) `canvas`, small masks over large ones, no pixel filled twice."""
    order = sorted(range(len(crops)), key=lambda i: -np.count_nonzero(crops[i].values))
    image, levels = canvas.copy(), np.arange(256)
    for i in order:
        inside, before, after = crops[i].values, image[_window(crops[i])], canvas[_window(crops[i])]
        for channel, strength in enumerate(colours[i]):
            shades = ((1 - FILL) * levels + FILL * strength).astype(np.uint8)
            np.copyto(after[..., channel], shades.take(before[..., channel]), where=inside)
    for i in order:
        width = line if min(crops[i].values.shape) > 16 * line else 1  # or little of a small mask were left
        canvas[_window(crops[i])][_outline(crops[i].values, width)] = colours[i]


def _window(crop: Crop) -> tuple[slice, slice]:
    h, w = crop.values.shape
    return slice(crop.y, crop.y + h), slice(crop.x, crop.x + w)


def _outline(mask: np.ndarray, line: int) -> np.ndarray:
    """The `line` outermost pixels of (h, w) `mask`."""
    inner = np.pad(mask, 1)
    for _ in range(line):
        inner[1:-1, 1:-1] &= inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:]
    return mask & ~inner[1:-1, 1:-1]


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    texts: Sequence[str],
    boxes: np.ndarray,
    colours: Sequence[Colour],
    size: tuple[int, int],
    font: Path | None,
) -> None:
    if not texts:
        return
    width, height = size
    points = max(SMALLEST_TEXT, round(0.021 * math.sqrt(width * height)))
    extents = _extents(texts, points, font)
    while points > SMALLEST_TEXT and extents.prod(1).sum() > 0.2 * width * height:  # a crowd: smaller letters
        points -= 1
        extents = _extents(texts, points, font)
    boxes = boxes.clip(0, [width, height, width, height])
    labels = place_labels(extents, boxes, width, height)
    fitting = [i for i, corners in enumerate(labels) if corners[2] <= width and corners[3] <= height]
    for i in fitting:  # lines first: they are hidden by the labels, unless one had to move off its box
        middle = ((labels[i, 0] + labels[i, 2]) / 2, (labels[i, 1] + labels[i, 3]) / 2)
        nearest = (min(max(middle[0], boxes[i, 0]), boxes[i, 2]), min(max(middle[1], boxes[i, 1]), boxes[i, 3]))
        draw.line((*middle, *nearest), fill=colours[i], width=max(1, points // 12))
    for i in fitting:
        x1, y1, x2, y2 = (round(side) for side in labels[i])
        draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=colours[i])
        write_text(draw, x1 + _padding(points), (y1 + y2) / 2, texts[i], points, _readable_on(colours[i]), font)


def _extents(texts: Sequence[str], points: int, font: Path | None) -> np.ndarray:
    """(N, 2) width and height of labels."""
    pad = _padding(points)
    widths = [text_width(text, points, font) + 2 * pad for text in texts]
    return np.stack([np.ceil(widths), np.full(len(texts), math.ceil(points * 1.2) + pad)], axis=1)


def _padding(points: int) -> int:
    return max(2, points // 5)


def _colour(index: int) -> Colour:
    """Hues a golden angle apart, so that neighbours in the order differ, at three strengths in turn."""
    strength = ((0.85, 1.0), (0.65, 1.0), (1.0, 0.8))[index % 3]
    red, green, blue = colorsys.hsv_to_rgb((0.02 + 0.618034 * index) % 1, *strength)
    return round(red * 255), round(green * 255), round(blue * 255)


def _readable_on(colour: Colour) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 125 else "white"


def _heat_colours() -> np.ndarray:
    """(256, 3) uint8 from blue over green to red."""
    level = np.linspace(0, 1, 256)
    peaks = [1.5 - np.abs(4 * level - peak) for peak in (3, 2, 1)]
    return (np.stack(peaks, axis=1).clip(0, 1) * 255).round().astype(np.uint8)


_HEAT_COLOURS = _heat_colours()


def _surroundings(box: np.ndarray, width: int, height: int) -> tuple[int, int, int, int]:
    """A box with a quarter of its longer side around it, at least 32 pixels a side where the image allows."""
    x1, y1, x2, y2 = box.clip(0, [width, height, width, height]).tolist()
    margin = max(x2 - x1, y2 - y1) / 4
    across, up = max(margin, (32 - x2 + x1) / 2), max(margin, (32 - y2 + y1) / 2)
    left, top = max(0, math.floor(x1 - across)), max(0, math.floor(y1 - up))
    return left, top, min(width, math.ceil(x2 + across)), min(height, math.ceil(y2 + up))


def _piece(crop: Crop, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """(y1 − y0, x1 − x0): what the mask is within a rectangle of the image."""
    piece = np.zeros((y1 - y0, x1 - x0), crop.values.dtype)
    h, w = crop.values.shape
    left, top, right, bottom = max(crop.x, x0), max(crop.y, y0), min(crop.x + w, x1), min(crop.y + h, y1)
    if left < right and top < bottom:
        inside = crop.values[top - crop.y : bottom - crop.y, left - crop.x : right - crop.x]
        piece[top - y0 : bottom - y0, left - x0 : right - x0] = inside
    return piece


def _row(
    pictures: Sequence[Image.Image], cell: int, titles: Sequence[str] = (), font: Path | None = None
) -> Image.Image:
    """Pictures side by side on white, each fitted into a cell; titles above."""
    fitted = [_fit(picture, cell) for picture in pictures]
    points = max(12, cell // 18)
    head = round(points * 1.7) if titles else 0
    size = (len(fitted) * (cell + GAP) + GAP, head + max((picture.height for picture in fitted), default=0))
    row = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(row)
    for k, picture in enumerate(fitted):
        left = GAP + k * (cell + GAP)
        row.paste(picture, (left + (cell - picture.width) // 2, head))
        if titles:
            start = left + (cell - text_width(titles[k], points, font)) / 2
            write_text(draw, start, head / 2, titles[k], points, "black", font)
    return row


def _fit(picture: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows one below the other on white."""
    width = max(row.width for row in rows)
    wall = Image.new("RGB", (width, GAP + sum(row.height + GAP for row in rows)), "white")
    top = GAP
    for row in rows:
        wall.paste(row, (0, top))
        top += row.height + GAP
    return wall
