"""COCO's panoptic format: a label map a picture, whose colours are the objects' numbers, and panoptic.json.

A pixel belongs to one object: where masks lie over each other, to that of the highest score. Objects of which nothing
is left are left out.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask_frozen_detr.machine.files import encode_json
from mask_frozen_detr.results.exports.found import Files, Picture


def files(pictures: Sequence[Picture], names: Mapping[int, str], folder: Path) -> Files:
    """Relative path to content."""
    made: Files = {}
    images, annotations = [], []
    for number, picture in enumerate(pictures, 1):
        labels = np.zeros((picture.height, picture.width), np.uint32)
        ranked = sorted(enumerate(picture.objects, 1), key=lambda pair: pair[1].score)
        for label, one in ranked:
            crop = one.crop
            h, w = crop.values.shape
            labels[crop.y : crop.y + h, crop.x : crop.x + w][crop.values.astype(bool)] = label
        buffer = io.BytesIO()
        colours = np.stack([labels & 255, labels >> 8 & 255, labels >> 16], -1).astype(np.uint8)
        Image.fromarray(colours).save(buffer, "PNG")
        made[f"panoptic/{picture.name}.png"] = buffer.getvalue()
        segments: list[dict[str, Any]] = []
        for label, one in enumerate(picture.objects, 1):
            rows, columns = np.nonzero(labels == label)
            if len(rows):
                x, y = int(columns.min()), int(rows.min())
                box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
                about = {"id": label, "category_id": one.category, "score": one.score, "iscrowd": 0}
                segments.append({**about, "area": len(rows), "bbox": box})
        size = {"width": picture.width, "height": picture.height}
        images.append({"id": number, "file_name": picture.seen_from(folder), **size})
        annotations.append({"image_id": number, "file_name": f"{picture.name}.png", "segments_info": segments})
    categories = [{"id": key, "name": name, "isthing": 1} for key, name in sorted(names.items())]
    content = {"images": images, "annotations": annotations, "categories": categories}
    made["panoptic.json"] = encode_json(content, indent=None)
    return made
