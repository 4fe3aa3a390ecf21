"""The smallest data that every command takes: a try's time goes into what is tried."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from tiny_detectors import NAMES

SIZE = (64, 48)  # width, height of the pictures
SPLITS = {"train2017": 4, "val2017": 2}
CLASSES = [*NAMES.values(), "bolt"]  # one that the detector lacks


def draw_data(folder: Path) -> None:
    """COCO's layout: three shapes a picture, as polygons and as run lengths, one of them a crowd."""
    (folder / "annotations").mkdir(parents=True)
    generator = np.random.default_rng(0)
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    for first, (split, pictures) in zip((1, 100), SPLITS.items(), strict=True):
        (folder / split).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(first, first + pictures):
            image = Image.fromarray(generator.integers(60, 100, (SIZE[1], SIZE[0], 3), dtype=np.uint8))
            for place in range(3):
                colour = tuple(int(value) for value in generator.integers(120, 256, 3))
                one = _draw_shape(image, place, int(generator.integers(len(CLASSES))), colour, generator)
                annotations.append({"id": len(annotations) + 1, "image_id": number, **one})
            name = f"{number:012d}.jpg"
            image.save(folder / split / name)
            images.append({"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def _draw_shape(image: Image.Image, place: int, kind: int, colour: tuple, generator: Any) -> dict[str, Any]:
    x, y = 2 + 20 * place, int(generator.integers(2, 14))
    w, h = int(generator.integers(8, 18)), int(generator.integers(8, 30))
    box = (x, y, x + w - 1, y + h - 1)
    mask = Image.new("L", SIZE)
    for canvas, value in ((image, colour), (mask, 1)):
        draw = ImageDraw.Draw(canvas)
        (draw.rectangle if place == 0 else draw.ellipse)(box, fill=value)
    pixels = np.asarray(mask)
    one: dict[str, Any] = {
        "category_id": kind + 1,
        "bbox": [x, y, w, h],
        "area": int(pixels.sum()),
        "iscrowd": int(place == 2),
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
    }
    if place:
        runs = coco_mask.encode(np.asfortranarray(pixels))
        one["segmentation"] = {"size": runs["size"], "counts": runs["counts"].decode()}
    return one
