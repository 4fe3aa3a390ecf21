"""Peer: SAM, prompted with the detector's boxes. Nothing is trained; SAM's encoder looks at each image as well.

    python benchmarks/sam_boxes.py DETECTOR DATA --sam facebook/sam-vit-base --output sam.json

The boxes are those of `evaluate`, so that box AP is the same and mask AP ÷ box AP can be set beside a trained mask
network's. `--sam` is a folder or hub id that transformers' `SamModel` and `SamProcessor` load. Masks are ranked by the
detector's scores, as SAM's authors do, and once more by these × SAM's own estimate of IoU.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert
from transformers import SamModel, SamProcessor
from tyro.conf import Positional

from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import CocoData
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors import FrozenDetector, load_detector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.results.inference import top_detections
from mask_frozen_detr.results.paste import Crop
from mask_frozen_detr.results.rle import crop_to_rle
from mask_frozen_detr.results.scoring import score, scorer_name


@dataclass
class Options:
    """Measure SAM with a detector's boxes."""

    # The detector: a Hugging Face id, a folder in transformers' format, or an official checkpoint file.
    detector: Positional[str]
    # Data in COCO format: a folder with a val split, or one annotation file.
    data: Positional[Path]
    # SAM: a folder or a Hugging Face id.
    sam: str
    # Where the figures go.
    output: Path
    # Detections an image.
    max_detections: int = 100
    # Boxes at a time: SAM's masks come at 1024 × 1024.
    boxes: int = 16
    # Where to compute.
    device: str = "cpu"


class BoxPrompted:
    """SAM's masks for boxes: the image is encoded once, boxes are asked for in pieces."""

    def __init__(self, name: str, device: str, boxes: int):
        model: torch.nn.Module = SamModel.from_pretrained(name)
        self.model: Any = model.to(device).eval()
        self.processor = SamProcessor.from_pretrained(name)
        self.device, self.boxes = device, boxes

    @torch.no_grad()
    def __call__(self, image: Image.Image, boxes: Tensor) -> Iterator[tuple[np.ndarray, float]]:
        """boxes: (N, 4), x0, y0, x1, y1 in pixels of the image. Yields (H, W) bool masks, each with a predicted IoU."""
        pixels = self.processor(image, return_tensors="pt")["pixel_values"].to(self.device)
        embedding = self.model.get_image_embeddings(pixels)
        for part in boxes.split(self.boxes):
            prompt = self.processor(image, input_boxes=[part.tolist()], return_tensors="pt")
            output = self.model(
                image_embeddings=embedding,
                input_boxes=prompt["input_boxes"].to(self.device, torch.float32),
                multimask_output=False,
            )
            masks = self.processor.image_processor.post_process_masks(
                output.pred_masks.cpu(), prompt["original_sizes"], prompt["reshaped_input_sizes"]
            )[0]
            yield from zip(masks[:, 0].numpy(), output.iou_scores[0, :, 0].tolist(), strict=True)


@torch.no_grad()
def detect(detector: FrozenDetector, image: Image.Image, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The detector's own boxes (N, 4) as x0, y0, x1, y1 in pixels, scores (N,), labels (N,)."""
    pixel_values, pixel_mask = collate_images([detector.info.preprocessing(image)])
    found = detector(pixel_values, pixel_mask)
    (top,) = top_detections(found.logits, detector.info.score_rule, count)
    size = torch.tensor([image.width, image.height, image.width, image.height])
    return box_convert(found.boxes[0].float()[top.query_index], "cxcywh", "xyxy") * size, top.scores, top.labels


def measure(detector: FrozenDetector, data: CocoData, sam: BoxPrompted, count: int) -> dict[str, Any]:
    """COCO's figures of boxes and of masks, the latter by both rankings."""
    classes = classes_of(data, detector.info.class_names, None)
    boxes, masks = [], []
    for record in data.images:
        image = read_image(record.path)
        corners, scores, labels = detect(detector, image, count)
        found = zip(corners.tolist(), scores.tolist(), labels.tolist(), sam(image, corners), strict=True)
        for (x0, y0, x1, y1), class_score, label, (mask, iou) in found:
            if label in classes.category_of:
                entry = {"image_id": record.id, "category_id": classes.category_of[label], "score": class_score}
                boxes.append({**entry, "bbox": [x0, y0, x1 - x0, y1 - y0]})
                rle = crop_to_rle(Crop(0, 0, mask), image.height, image.width)
                masks.append({**entry, "segmentation": rle, "product": class_score * iou})
    truth = truth_of(data, set(classes.category_of.values()))
    by_class_score = [{key: entry[key] for key in entry if key != "product"} for entry in masks]
    by_product = [{**plain, "score": entry["product"]} for plain, entry in zip(by_class_score, masks, strict=True)]
    return {
        "images": len(data.images),
        "box": score(truth, boxes, "bbox", count).figures,
        "mask, ranked by the detector's score": score(truth, by_class_score, "segm", count).figures,
        "mask, ranked by this × SAM's IoU": score(truth, by_product, "segm", count).figures,
        "scorer": scorer_name(),
    }


def truth_of(data: CocoData, categories: set[int]) -> dict[str, Any]:
    """The annotation file, without what the detector has no class for."""
    content = json.loads(Path(data.annotation_file).read_text())
    images = {record.id for record in data.images}
    kept = [
        {**annotation, "id": number, "iscrowd": annotation.get("iscrowd", 0)}
        for number, annotation in enumerate(content["annotations"], 1)
        if annotation["image_id"] in images and annotation["category_id"] in categories
    ]
    return {
        "images": [image for image in content["images"] if image["id"] in images],
        "annotations": kept,
        "categories": [category for category in content["categories"] if category["id"] in categories],
    }


def main(arguments: list[str] | None = None) -> None:
    options = tyro.cli(Options, description=__doc__, args=arguments)
    detector, data = load_detector(options.detector), load_split(options.data, "val")
    start = time.perf_counter()
    sam = BoxPrompted(options.sam, options.device, options.boxes)
    figures = measure(detector, data, sam, options.max_detections)
    parameters = sum(parameter.numel() for parameter in sam.model.parameters())
    about = {"detector": options.detector, "data": str(options.data), "sam": options.sam, "parameters": parameters}
    write_json_atomic(options.output, {**about, **figures, "seconds": round(time.perf_counter() - start, 1)})
    for name in [key for key in figures if key.startswith(("box", "mask"))]:
        print(f"{name}: AP {figures[name]['AP']:.1f}")


if __name__ == "__main__":
    main()
