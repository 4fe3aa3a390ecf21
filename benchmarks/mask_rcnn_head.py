"""Peer: torchvision's Mask R-CNN head on the same frozen detector, data, boxes and training loop.

    python benchmarks/mask_rcnn_head.py DETECTOR DATA --output runs/mask-rcnn-head --iterations 2000 --lr 1e-3

The head reads the same fused stride-4 map as the mask network (neck(C₁) + upsampled E₁, 256 wide), pooled to 14 × 14,
through four 3 × 3 convolutions and a transposed one to 28 × 28, and learns by binary cross-entropy on all cells, as in
Mask R-CNN. One mask a box, not one a class: with few images that serves the peer. Ranked by equation 2.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
import tyro
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import roi_align
from tyro.conf import OmitArgPrefixes, Positional

from mask_frozen_detr.data.load import load_split
from mask_frozen_detr.detectors import Detections, DetectorShapes, load_detector
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.machine.files import write_json_atomic
from mask_frozen_detr.model import MaskFrozenDetr
from mask_frozen_detr.network import MaskNetwork, MaskNetworkConfig, MaskOutput
from mask_frozen_detr.network.fusion import Fusion
from mask_frozen_detr.network.mask_network import pixel_boxes
from mask_frozen_detr.network.padding import Padding
from mask_frozen_detr.network.stem import choose_stem
from mask_frozen_detr.training.config import LossConfig, TrainConfig
from mask_frozen_detr.training.loop import train

WIDTH, POOLED = 256, 14


class MaskRCNNHead(nn.Module):
    """Same interface as `MaskNetwork`: masks (M, 28, 28) of chosen queries."""

    def __init__(self, shapes: DetectorShapes):
        super().__init__()
        self.config, self.shapes = MaskNetworkConfig(mask_scoring=False), shapes
        self.project = nn.Conv2d(shapes.feature_widths[0], WIDTH, 1)
        self.fusion = Fusion(WIDTH, shapes.strides[0], choose_stem(self.config, shapes), neck=True)
        self.head = MaskRCNNHeads(WIDTH, (256, 256, 256, 256), dilation=1)
        self.predictor = MaskRCNNPredictor(256, 256, num_classes=1)

    def forward(
        self, detections: Detections, pixel_mask: Tensor, image_index: Tensor, query_index: Tensor
    ) -> MaskOutput:
        padding, device = Padding.of(pixel_mask, detections.queries.device), detections.queries.device
        image_index, query_index = send(image_index, device), send(query_index, device)
        finest, stem, stem_valid = detections.features[0], None, None
        if self.fusion.uses_stem:
            stem = detections.stem
            stem_valid = None if stem is None else padding.cells(stem, self.shapes.stem_stride)
        maps = self.fusion(self.project(finest), stem, padding.cells(finest, self.shapes.strides[0]), stem_valid)
        frames = pixel_boxes(detections.boxes[image_index, query_index].float(), padding.sizes[image_index])
        rois = torch.cat([image_index[:, None].to(frames.dtype), frames], 1)
        boxes = roi_align(maps, rois, POOLED, 1 / self.fusion.stride, sampling_ratio=2, aligned=True)
        return MaskOutput(self.predictor(self.head(boxes))[:, 0], None, frames)


@dataclass
class Options:
    """Train the peer."""

    detector: Positional[str]
    data: Positional[Path]
    output: Path
    training: OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: TrainConfig(loss=LossConfig(dice_weight=0.0, sampled_points=False))
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    detector = load_detector(options.detector)
    model = MaskFrozenDetr(detector, cast(MaskNetwork, MaskRCNNHead(detector.shapes)))
    evaluation = train(
        model, load_split(options.data, "train"), load_split(options.data, "val"), options.output, options.training
    )
    assert evaluation is not None
    print(evaluation.table())
    write_json_atomic(options.output / "val.json", evaluation.as_dict())


if __name__ == "__main__":
    main()
