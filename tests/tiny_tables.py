"""Tables of the paper on small detectors."""

from typing import Any

from mask_frozen_detr.paper.config import ReproduceConfig

SMALL: dict[str, Any] = {
    "roi_size": 8,
    "workers": 0,
    "min_box_iou": 0.0,
    "max_images": 2,
    "max_detections": 5,
    "warmup": 0,
}


TINY = ReproduceConfig(budget="2it", **SMALL)


OPTIONS = [
    *["--budget", "2it", "--roi-size", "8", "--workers", "0", "--min-box-iou", "0", "--max-images", "2"],
    *["--max-detections", "5", "--warmup", "0"],
]
