"""A training from Python that takes a moment."""

import torch

from mask_frozen_detr import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetworkConfig
from mask_frozen_detr.training.config import TrainConfig

CONFIG = TrainConfig(
    iterations=2, workers=0, log_every=1, min_box_iou=0.0, lr=1e-3, precision="fp32", report=False, log="none"
)


def build(detector, network: MaskNetworkConfig, seed: int = 0) -> MaskFrozenDetr:
    torch.manual_seed(seed)
    return MaskFrozenDetr.build(detector, network)
