"""A mask network with all of the default's parts on a small detector, and batches for it."""

import torch
from synthetic_detections import draw_detections, pad_batch

from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.network import MaskNetworkConfig

SMALL = DetectorShapes(16, (16, 16, 16), (8, 16, 32), 12, 7)
CONFIG = MaskNetworkConfig(mask_width=8, roi_size=8)  # all of the default's parts
QUERIES = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(
    shapes: DetectorShapes, sizes: list[tuple[int, int]], padded: tuple[int, int]
) -> tuple[list[Detections], Detections, torch.Tensor]:
    """Images of `sizes` alone, the same in one batch padded to `padded` (height, width), and its pixel mask."""
    alone = [draw_detections(shapes, size, QUERIES, generator(k)) for k, size in enumerate(sizes)]
    return alone, *pad_batch(alone, sizes, padded, shapes, generator(99))
