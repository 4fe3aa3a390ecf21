"""Figures by pycocotools."""

import contextlib
import io
import json
import math

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

H, W = 240, 320


def mask_of(polygon: list[float]) -> dict:
    return coco_mask.frPyObjects([polygon], H, W)[0]


def plain(rle: dict) -> dict:
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def found(rng: np.random.Generator, image: int, category: int, polygon: list[float]) -> dict:
    rle = mask_of(polygon)
    return {
        "image_id": image,
        "category_id": category,
        "bbox": [float(side) for side in coco_mask.toBbox(rle)],
        "score": float(rng.choice([0.5, rng.random()], p=[0.1, 0.9])),
        "class_score": float(rng.random()),
        "segmentation": plain(rle),
    }


def reference(truth: dict, results: list[dict], kind: str) -> tuple[np.ndarray, dict[str, float]]:
    """pycocotools' 12 figures and AP by class."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = json.loads(json.dumps(truth))
        ground.createIndex()
        scorer = COCOeval(ground, ground.loadRes(json.loads(json.dumps(results))), kind)
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    names = {category["id"]: category["name"] for category in truth["categories"]}
    by_class = {}
    for k, category in enumerate(scorer.params.catIds):
        values = scorer.eval["precision"][:, :, k, 0, -1]
        by_class[names[category]] = float(values[values > -1].mean()) if (values > -1).any() else math.nan
    return scorer.stats, by_class
