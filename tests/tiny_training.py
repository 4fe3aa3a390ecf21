"""A training from Python that takes a moment, and pictures that cannot be trained on."""

from dataclasses import replace
from pathlib import Path

import torch

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.data.coco import ImageRecord
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.training.config import TrainConfig

CONFIG = TrainConfig(
    iterations=2, workers=0, log_every=1, min_box_iou=0.0, lr=1e-3, precision="fp32", report=False, log="none"
)


def build(detector, network: MaskNetworkConfig, seed: int = 0) -> MaskFrozenDetr:
    torch.manual_seed(seed)
    return MaskFrozenDetr.build(detector, network)


def spoiled(record: ImageRecord, fault: str, path: Path) -> ImageRecord:
    """A record whose picture, at `path`, cannot be used, or that gives its picture another size."""
    if fault == "of another size":
        return replace(record, width=record.width + 3)
    if fault == "cut short":
        path.write_bytes(record.path.read_bytes()[:-3000])
    elif fault == "no image":
        path.write_text("hello")
    else:
        assert fault == "gone"
    return replace(record, path=path)
