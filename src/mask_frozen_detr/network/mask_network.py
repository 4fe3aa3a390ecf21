"""The mask network: all that Mask Frozen-DETR trains (paper, Figure 7; 3.26 M parameters with the default parts).

Letters: B images, M boxes and their queries over all images, r RoIAlign side, c mask width, d detector width,
K classes, H × W padded input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, roi_align

from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.network.box_encoder import BOX_ENCODERS
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.network.fusion import Fusion
from mask_frozen_detr.network.heads import HEADS
from mask_frozen_detr.network.image_encoder import IMAGE_ENCODERS
from mask_frozen_detr.network.mask_scoring import MaskScoring
from mask_frozen_detr.network.query_encoder import QueryLayer
from mask_frozen_detr.network.stem import PixelStem, stem_source
from mask_frozen_detr.ops.padding import extents, valid_cells

BOXES_AT_A_TIME = 8


@dataclass
class MaskOutput:
    """Masks of M queries.

    logits: (M, h, w): r × r over the query's box, or over the whole padded input without RoIAlign.
    iou: (M, K) predicted mask IoU a class, or None without mask scoring.
    frames: (M, 4): x0, y0, x1, y1 of the region that the mask covers, in pixels of the padded input.
    """

    logits: Tensor
    iou: Tensor | None
    frames: Tensor


class MaskNetwork(nn.Module):
    """Masks for chosen queries of a frozen detector.

    Raises ValueError where the configuration does not fit the detector's widths.
    """

    def __init__(self, config: MaskNetworkConfig, shapes: DetectorShapes):
        super().__init__()
        self.config, self.shapes = config, shapes
        self.image_encoder = IMAGE_ENCODERS[config.image_encoder](shapes.feature_widths, config.image_layers)
        d = self.image_encoder.width
        source = stem_source(config, shapes)
        self.pixel_stem = PixelStem() if source == "pixels" else None
        stem_width = {"none": None, "backbone": shapes.stem_width, "pixels": PixelStem.width}[source]
        self.stem_stride = shapes.stem_stride if source == "backbone" else 4
        self.fusion = Fusion(d, shapes.strides[0], stem_width, config.neck, config.trainable, self.stem_stride)
        c = d if config.mask_width is None else config.mask_width
        if config.mask_width is None and shapes.query_width != d and not config.trainable:
            raise ValueError(
                f"the training-free baseline multiplies queries and features as they are: the detector's queries "
                f"have width {shapes.query_width}, its features {d}"
            )
        self.map_mapper = nn.Identity() if c == d else nn.Linear(d, c)
        self.query_mapper = nn.Identity() if c == shapes.query_width else nn.Linear(shapes.query_width, c)
        self.box_encoder = BOX_ENCODERS[config.box_encoder](c, config.box_layers, config.roi_size)
        self.query_layers = nn.ModuleList(
            QueryLayer(c, config.query_ffn, config.query_b2o, config.query_o2o) for _ in range(config.query_layers)
        )
        # Normalised queries and features have a product of variance c: scaled, sigmoids do not start saturated.
        self.head = HEADS[config.head](c, scale=c**-0.5 if config.trainable else 1.0)
        self.scoring = MaskScoring(c, config.roi_size, shapes.num_classes) if config.mask_scoring else None

    def forward(
        self, detections: Detections, pixel_mask: Tensor, image_index: Tensor, query_index: Tensor
    ) -> MaskOutput:
        """Masks of queries `query_index` (M,) of images `image_index` (M,), the latter sorted.

        pixel_mask: (B, H, W), 1 = image. Boxes are relative to the unpadded image and are scaled by its size, so
        that RoIAlign lands on the same pixels whatever the padding.
        Mask and indices best lie on the host: then a GPU need not be waited for.
        """
        features, device = detections.features, detections.queries.device
        sizes = send(extents(pixel_mask), device)  # (B, 2)
        padded = bool((pixel_mask == 0).any())
        image_index, query_index = send(image_index, device), send(query_index, device)
        stem = detections.stem if self.fusion.uses_stem else None
        if padded or self.pixel_stem is not None:
            pixel_mask = send(pixel_mask, device)
        if self.pixel_stem is not None:
            assert detections.pixels is not None, "the mask network learns from the pixels, but the detector gave none"
            stem = self.pixel_stem(detections.pixels, pixel_mask)
        valid = stem_valid = None
        if padded:
            valid = [
                valid_cells(pixel_mask, level.shape[2:], stride)
                for level, stride in zip(features, self.shapes.strides, strict=True)
            ]
            stem_valid = None if stem is None else valid_cells(pixel_mask, stem.shape[2:], self.stem_stride)
        encoded = self.image_encoder(features, valid)  # (B, d, H_1, W_1)
        maps = self.fusion(encoded, stem, valid and valid[0], stem_valid)  # F: (B, d, H/4, W/4)
        maps = self.map_mapper(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # (B, c, H/4, W/4)

        queries = self.query_mapper(detections.queries[image_index, query_index])  # (M, c)
        places = detections.boxes[image_index, query_index].float()  # (M, 4)
        if not self.config.roi_align:
            frames = places.new_tensor([0, 0, maps.shape[3] * self.fusion.stride, maps.shape[2] * self.fusion.stride])
            return MaskOutput(self.head(queries, maps[image_index]), None, frames.expand(len(places), 4))

        frames = pixel_boxes(places, sizes[image_index])
        maps = maps.contiguous()  # or RoIAlign makes a copy for every piece
        pieces = [slice(0, len(frames))]
        if frames.device.type == "cpu" and not torch.is_grad_enabled() and not self.config.query_o2o:
            # Boxes do not see each other: few at a time stay in the processor's cache.
            pieces = [slice(i, i + BOXES_AT_A_TIME) for i in range(0, len(frames), BOXES_AT_A_TIME)] or pieces
        parts = [
            self._segment_boxes(maps, queries[part], places[part], frames[part], image_index[part]) for part in pieces
        ]
        logits = torch.cat([mask for mask, _ in parts])
        iou = None if self.scoring is None else torch.cat([score for _, score in parts if score is not None])
        if iou is not None and self.shapes.num_classes == 1:  # the classes of a prompt share one score
            iou = iou.expand(-1, detections.logits.shape[-1])
        return MaskOutput(logits, iou, frames)

    def _segment_boxes(
        self, maps: Tensor, queries: Tensor, places: Tensor, frames: Tensor, image_index: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """F (B, c, H/4, W/4) and M queries (M, c) with their boxes → mask logits (M, r, r), IoU (M, K) or None."""
        rois = torch.cat([image_index[:, None].to(frames), frames], 1)
        size = self.config.roi_size
        boxes = roi_align(  # R: (M, c, r, r)
            maps.float(), rois, size, 1 / self.fusion.stride, sampling_ratio=2, aligned=True
        ).to(maps.dtype)
        for index in range(self.config.box_layers):
            boxes = self.box_encoder.layer(index, boxes)
            if self.query_layers:
                queries = self.query_layers[index](queries, boxes, places, image_index)
        logits = self.head(queries, boxes)
        return logits, None if self.scoring is None else self.scoring(logits, boxes)


def pixel_boxes(places: Tensor, sizes: Tensor) -> Tensor:
    """(M, 4) cx, cy, w, h relative to the unpadded image → x0, y0, x1, y1 in pixels of the padded input.

    sizes: (M, 2), the unpadded width and height of each box's image.
    Clipped to the image: there is nothing to segment outside, and RoIAlign's cells are better spent within. A box
    that the detector left inside out is empty.
    """
    places = torch.cat([places[:, :2], places[:, 2:].clamp(min=0)], 1)
    return box_convert(places, "cxcywh", "xyxy").clamp(0, 1) * sizes.repeat(1, 2).to(places)
