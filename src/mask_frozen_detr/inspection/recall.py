"""The share of objects that the detector finds: no mask network can segment the rest."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_convert, box_iou

from mask_frozen_detr.data.classes import ClassMap
from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.data.orientation import open_picture
from mask_frozen_detr.detectors import FrozenDetector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.errors import reason
from mask_frozen_detr.inspection.facts import SIZES, size_of
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.results.inference import top_detections

DETECTIONS = 100  # of an image, best first
LEAST = 0.5  # overlap of boxes


@dataclass(frozen=True)
class Recall:
    """found, objects: by class name. by_size: found and objects of each of `SIZES`. problems: pictures left out."""

    images: int
    found: dict[str, int]
    objects: dict[str, int]
    by_size: dict[str, tuple[int, int]]
    problems: list[str]

    @property
    def share(self) -> float | None:
        total = sum(self.objects.values())
        return sum(self.found.values()) / total if total else None


@torch.no_grad()
def measure_recall(
    detector: FrozenDetector,
    images: list[ImageRecord],
    classes: ClassMap,
    names: dict[int, str],
    report: Callable[[int], None] = lambda done: None,
) -> Recall:
    """Which objects have a detection of their class, among the best `DETECTIONS`, that overlaps them by `LEAST`.

    Crowds and classes that the detector lacks are left out. names: category id to name. report: called with how many
    images are done.
    """
    found: dict[str, int] = {}
    objects: dict[str, int] = {}
    sizes = np.zeros((len(SIZES), 2), int)
    problems = []
    device = next(detector.parameters()).device
    for number, record in enumerate(images, 1):
        wanted = [a for a in record.annotations if not a.iscrowd and a.category_id in classes.index_of]
        try:
            pixels, mask = collate_images([detector.info.preprocessing(open_picture(record, record.orientation))])
            detections = detector(send(pixels, device), mask)
            (top,) = top_detections(detections.logits, detector.info.score_rule, DETECTIONS)
        except Exception as error:  # one bad picture is one line
            problems.append(f"{record.path}: {reason(error)}")
            continue
        scale = torch.tensor([record.width, record.height, record.width, record.height])
        boxes = box_convert(detections.boxes[0].float().cpu()[top.query_index], "cxcywh", "xyxy") * scale
        truth = box_convert(torch.tensor([a.bbox for a in wanted]).reshape(-1, 4), "xywh", "xyxy")
        labels = torch.tensor([classes.index_of[a.category_id] for a in wanted], dtype=torch.long)
        hit = ((box_iou(truth, boxes) >= LEAST) & (labels[:, None] == top.labels[None])).any(1).tolist()
        for a, is_found in zip(wanted, hit, strict=True):
            name = names[a.category_id]
            objects[name] = objects.get(name, 0) + 1
            found[name] = found.get(name, 0) + is_found
            sizes[size_of(a.area)] += (int(is_found), 1)
        report(number)
    by_size = {name: (int(sizes[place, 0]), int(sizes[place, 1])) for place, name in enumerate(SIZES)}
    return Recall(len(images) - len(problems), found, objects, by_size, problems)
