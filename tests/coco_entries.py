"""Entries of COCO annotation files: a 10 × 10 square in a picture of 40 × 30 pixels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.formats.coco import read_coco
from mask_frozen_detr.data.validation import decode_counts

W, H = 40, 30
SQUARE = [5, 5, 15, 5, 15, 15, 5, 15]
MASK = np.zeros((H, W), dtype=np.uint8)
MASK[5:15, 5:15] = 1
RLE = coco_mask.encode(np.asfortranarray(MASK))
COUNTS = RLE["counts"].decode()
RUNS = decode_counts(RLE["counts"]).tolist()


def image(image_id=1, name="dog.jpg", width=W, height=H) -> dict:
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def annotation(annotation_id=1, image_id=1, **changes) -> dict:
    """A good annotation with some fields changed, or left out where they are None."""
    fields = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 3,
        "bbox": [5, 5, 10, 10],
        "segmentation": [SQUARE],
        "iscrowd": 0,
        "area": 100.0,
    } | changes
    return {key: value for key, value in fields.items() if value is not None}


def data_set(*annotations, images=None) -> dict:
    return {
        "images": [image()] if images is None else images,
        "annotations": list(annotations),
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    }


def read(folder: Path, content: Any, files: Sequence[str] = ("dog.jpg",)) -> CocoData:
    """Writes an annotation file (JSON, or text as it is) beside the images it names and reads it."""
    for name in files:
        (folder / name).touch()
    file = folder / "instances_train.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_coco(file, folder)
