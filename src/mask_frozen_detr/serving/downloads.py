"""What is shown, as files to take home: a COCO data set, YOLO's lines of polygons, a label map."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mask_frozen_detr.results.instances import Instances
from mask_frozen_detr.results.prediction_files import describe_found

COCO_FILE, YOLO_FILE, PNG_FILE = "predictions.json", "labels.txt", "masks.png"


def write_downloads(folder: Path, instances: Instances, picture: str, class_names: Sequence[str]) -> list[str]:
    """Returns the paths of the three files. picture: its file name, as the COCO file calls it."""
    texts = {
        COCO_FILE: json.dumps(to_coco_data(instances, picture, class_names)),
        YOLO_FILE: to_yolo(instances),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    to_label_map(instances).save(folder / PNG_FILE)
    return [str(folder / name) for name in (COCO_FILE, YOLO_FILE, PNG_FILE)]


def to_coco_data(instances: Instances, picture: str, class_names: Sequence[str]) -> dict:
    """A COCO data set of one image; class indices stand as category ids, scores beside the masks."""
    known = instances[instances.labels >= 0]  # a drawn box may be of no class
    annotations = [{"id": k, "image_id": 1, **entry} for k, entry in enumerate(describe_found(known), 1)]
    return {
        "images": [{"id": 1, "file_name": picture, "width": instances.width, "height": instances.height}],
        "categories": [{"id": index, "name": name or str(index)} for index, name in enumerate(class_names)],
        "annotations": annotations,
    }


def to_yolo(instances: Instances) -> str:
    """A line an instance: class index, then x y of its outline in [0, 1]; several parts are joined into one outline."""
    lines = []
    size = np.array([instances.width, instances.height])
    for label, parts in zip(instances.labels.tolist(), instances.to_polygons(), strict=True):
        if label < 0 or not parts:
            continue
        numbers = " ".join(f"{value:.6f}" for value in (_one_outline(parts) / size).flatten())
        lines.append(f"{label} {numbers}\n")
    return "".join(lines)


def to_label_map(instances: Instances) -> Image.Image:
    """(H, W) 8 or 16 bit: 0 where nothing is, else the number of the instance, the first on top."""
    numbers = np.zeros((instances.height, instances.width), np.uint8 if len(instances) < 256 else np.uint16)
    for number in range(len(instances), 0, -1):
        crop = instances.crops[number - 1]
        h, w = crop.values.shape
        numbers[crop.y : crop.y + h, crop.x : crop.x + w][crop.values] = number
    return Image.fromarray(numbers)


def _one_outline(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Each part closed and left by its first point, then back over these points: bridges of no width."""
    closed = [np.concatenate([part, part[:1]]) for part in parts]
    back = [part[:1] for part in reversed(parts[:-1])]
    return np.concatenate([*closed, *back])
