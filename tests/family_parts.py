"""What the tests of all families share: which they are, a picture, a mask network."""

import numpy as np
import pytest
import torch
from family_models import TINY_MODELS
from PIL import Image
from synthetic_detections import all_queries, scatter_parameters
from torch import Tensor

from mask_frozen_detr.detectors import (
    Detections,
    TransformersDetector,
)
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig

CONFIG = MaskNetworkConfig(mask_width=16, roi_size=8, image_layers=1, box_layers=1)


# What is the same code for every family is tested on one of each kind; on all of them by `make test-slow`.
OF_EACH_KIND = {"detr", "deformable_detr", "rt_detr", "d_fine", "deimv2", "rf_detr", "grounding-dino"}


one_of_each_kind = pytest.mark.parametrize(
    "tiny",
    [pytest.param(tiny, marks=[] if tiny.name in OF_EACH_KIND else pytest.mark.slow) for tiny in TINY_MODELS],
    ids=lambda tiny: tiny.name.replace(" ", "-"),
)


def picture(height: int = 80, width: int = 120, seed: int = 0) -> Image.Image:
    """Coloured noise in blobs."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def masks(network: MaskNetwork, detections: Detections, pixel_mask: Tensor) -> Tensor:
    with torch.no_grad():
        return network(detections, pixel_mask, *all_queries(detections)).logits


def random_network(detector: TransformersDetector, config: MaskNetworkConfig = CONFIG) -> MaskNetwork:
    network = MaskNetwork(config, detector.shapes).eval()
    scatter_parameters(network)
    return network


def lost_biases(network: MaskNetwork) -> set[str]:
    """Biases without effect: the neck's where each channel is normalised by itself, as in narrow detectors."""
    neck = network.fusion.neck
    return set() if neck is None or neck.norm.num_groups < neck.norm.num_channels else {"fusion.neck.conv.bias"}
