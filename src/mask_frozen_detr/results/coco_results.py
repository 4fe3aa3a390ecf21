"""What COCO's scorers compare: ground truth and results, each as boxes and as masks."""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import crop_to_rle

Kind = Literal["bbox", "segm"]
KINDS: tuple[Kind, Kind] = ("bbox", "segm")
BOX_KEYS = ("image_id", "category_id", "bbox", "score")  # of COCO results, in the order in which they are written
MASK_KEYS = ("image_id", "category_id", "score", "segmentation")


def coco_results(found: Iterable[Mapping[str, Any]], kind: Kind) -> list[dict[str, Any]]:
    """Entries with boxes, masks and both scores, as one kind is scored.

    Boxes are ranked by the detector's own scores ("class_score"): box AP is the detector's, with masks or without.
    Masks go by theirs ("score"), and are without boxes: see `score`.
    """
    if kind == "bbox":
        return [{key: entry["class_score" if key == "score" else key] for key in BOX_KEYS} for entry in found]
    return [{key: entry[key] for key in MASK_KEYS} for entry in found]


def coco_truth(
    images: Sequence[ImageRecord], categories: Mapping[int, str], known: Container[int], kind: Kind
) -> dict[str, Any]:
    """COCO's ground truth of some images, of the categories whose ids are `known` to the detector.

    Annotations are numbered from 1. Of masks, an object without one is a crowd that covers its box: COCOeval takes
    intersection / detection as the overlap with a crowd, so that whatever would be right for some mask within the box
    is ignored, at each threshold, and nothing is missed where nothing is found.
    """
    annotations: list[dict[str, Any]] = []
    for record in images:
        for a in record.annotations:
            if a.category_id not in known:
                continue
            unknown = a.segmentation is None
            entry = {
                "id": len(annotations) + 1,
                "image_id": record.id,
                "category_id": a.category_id,
                "bbox": list(a.bbox),
                "area": a.area,
                "iscrowd": int(a.iscrowd or (unknown and kind == "segm")),
            }
            if kind == "segm":
                entry["segmentation"] = _covering(a.bbox, record) if unknown else _plain(a.segmentation)
            annotations.append(entry)
    return {
        "images": [{"id": r.id, "width": r.width, "height": r.height, "file_name": r.path.name} for r in images],
        "annotations": annotations,
        "categories": [{"id": key, "name": name} for key, name in categories.items() if key in known],
    }


def _plain(segmentation: Any) -> Any:
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], bytes):
        return {"size": list(segmentation["size"]), "counts": segmentation["counts"].decode()}
    return segmentation


def _covering(box: Sequence[float], record: ImageRecord) -> dict[str, Any]:
    """Run lengths of all pixels that a box x, y, w, h touches."""
    x0, y0 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x1, y1 = min(record.width, math.ceil(box[0] + box[2])), min(record.height, math.ceil(box[1] + box[3]))
    covered = np.ones((max(0, y1 - y0), max(0, x1 - x0)), bool)
    return crop_to_rle(Crop(x0, y0, covered), record.height, record.width)
