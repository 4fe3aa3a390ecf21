"""What a detector costs an image."""

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from mask_frozen_detr.detectors.base import FrozenDetector
from mask_frozen_detr.detectors.preprocessing import collate_images
from mask_frozen_detr.machine.devices import send

USUAL_PICTURE = (640, 480)  # width, height: COCO's most frequent size


@torch.no_grad()
def detector_gmacs(detector: FrozenDetector) -> float:
    """Multiply-accumulates, in 10⁹, of one picture of COCO's most frequent size, as its pre-processing makes it.

    Counted are products of matrices, convolutions and attention; sampling, additions and activations are not.
    """
    device = next(detector.model.parameters()).device
    pixels, mask = collate_images([detector.info.preprocessing(Image.new("RGB", USUAL_PICTURE))])
    with FlopCounterMode(display=False) as counter:
        detector(send(pixels, device), mask)
    return counter.get_total_flops() / 2e9
