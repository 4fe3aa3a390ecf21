"""Training data: JPEG files to augmented, pre-processed tensors and ground-truth crops, in images/s of one core."""

import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from benchmarks.measure import rounded
from benchmarks.pictures import CLASSES, draw_boxes
from benchmarks.sizes import Sizes

QUALITY = 90
POLYGON = 40  # points of an outline


def write_data(folder: Path, sizes: Sizes) -> Path:
    """Files and annotations in COCO's layout; the annotation file. Blurred noise compresses much like photographs."""
    width, height = sizes.file_size
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    angle = np.linspace(0, 2 * np.pi, POLYGON, endpoint=False)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, sizes.files + 1):
        name = f"{number:012d}.jpg"
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        fine = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        coarse = coarse.resize((width, height), Image.Resampling.BICUBIC)
        Image.blend(coarse, fine.filter(ImageFilter.GaussianBlur(1)), 0.4).save(folder / name, quality=QUALITY)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for cx, cy, w, h in draw_boxes(sizes.objects, generator).tolist():
            x, y = width * (cx + w / 2 * np.cos(angle)), height * (cy + h / 2 * np.sin(angle))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(rng.integers(1, CLASSES + 1)),
                    "bbox": [width * (cx - w / 2), height * (cy - h / 2), width * w, height * h],
                    "area": math.pi / 4 * w * h * width * height,
                    "iscrowd": 0,
                    "segmentation": [np.stack([x, y], 1).flatten().round(2).tolist()],
                }
            )
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def loading(sizes: Sizes, until: float) -> tuple[list[dict[str, Any]], list[str]]:
    """One row: the paper's augmentation, one process, one thread, its processor time."""
    from mask_frozen_detr.data.classes import classes_of
    from mask_frozen_detr.data.formats.coco import read_coco
    from mask_frozen_detr.detectors.preprocessing import ShortestEdge
    from mask_frozen_detr.training.config import AugmentConfig
    from mask_frozen_detr.training.samples import TrainingData

    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = read_coco(write_data(folder, sizes), folder)
        classes = classes_of(data, [f"class {k}" for k in range(1, CLASSES + 1)])
        samples = TrainingData(data, classes, ShortestEdge(), AugmentConfig(), seed=0)
        torch.set_num_threads(1)
        try:
            samples[(0, 0)]
            seconds = []
            for number in range(1, sizes.files):
                began = time.process_time()
                sample = samples[(number, number)]
                seconds.append(time.process_time() - began)
                assert sample.problem is None, sample.problem
                if time.perf_counter() > until:
                    break
        finally:
            torch.set_num_threads(threads)
        kilobytes = sum(path.stat().st_size for path in folder.glob("*.jpg")) / sizes.files / 1000
    mean = sum(seconds) / len(seconds)
    return [
        {
            "what": "decode, augment, pre-process, crops of masks",
            "images/s of one core": rounded(1 / mean),
            "ms an image": rounded(1000 * mean),
            "files": f"{sizes.file_size[0]} × {sizes.file_size[1]}, {kilobytes:.0f} kB",
            "objects an image": sizes.objects,
            "images": len(seconds),
        }
    ], []
