"""A second look at what was found, in the mirror: better masks for twice the time (not in the paper).

A detector makes other features of a picture in the mirror, and the mean of two masks errs less than each. Boxes,
classes and their scores are the first look's, and its queries ask for the mask in the mirror as well.
Figures: docs/presets.md. Letters: B images, C channels, H × W padded input, M queries over all images, K classes.
"""

from dataclasses import replace

import torch
from torch import Tensor

from mask_frozen_detr.detectors.base import Detections, FrozenDetector
from mask_frozen_detr.errors import UserError
from mask_frozen_detr.network import MaskNetwork
from mask_frozen_detr.network.mask_network import MaskOutput
from mask_frozen_detr.ops.padding import extents


def check_mirror(network: MaskNetwork) -> None:
    """Raises UserError for a network whose masks cover the padded picture: in the mirror its cells lie elsewhere."""
    if not network.config.roi_align:
        raise UserError("mirror: found a mask network without RoIAlign, expected one whose masks cover a box each")


def mean_with_mirror(
    detector: FrozenDetector,
    network: MaskNetwork,
    pixel_values: Tensor,
    pixel_mask: Tensor,
    detections: Detections,
    image_index: Tensor,
    query_index: Tensor,
    first: MaskOutput,
) -> MaskOutput:
    """What `network` said of M queries at a first look, and what it says in the mirror: the mean of the two.

    pixel_values (B, C, H, W), pixel_mask (B, H, W), image_index and query_index (M,): those of `first`, which was made
    of `detections`. Logits are those of the mean probability; predicted IoUs (M, K) are averaged. Raises UserError as
    `check_mirror` does.
    """
    check_mirror(network)
    turned = torch.zeros_like(pixel_values)
    for b, (width, height) in enumerate(extents(pixel_mask).tolist()):  # what is padded stays right and below
        turned[b, :, :height, :width] = detector.info.preprocessing.mirror(pixel_values[b, :, :height, :width])
    seen = replace(detector(turned, pixel_mask), queries=detections.queries)
    boxes = detections.boxes[image_index, query_index].float()
    boxes[:, 0] = 1 - boxes[:, 0]
    second = network(seen, pixel_mask, image_index, query_index, boxes)
    mean = (first.logits.float().sigmoid() + second.logits.float().sigmoid().flip(-1)) / 2
    iou = None if first.iou is None or second.iou is None else (first.iou + second.iou) / 2
    return MaskOutput(mean.logit(torch.finfo(mean.dtype).eps), iou, first.frames)
