"""The mask network: all that Mask Frozen-DETR trains (paper, Figure 7; 3.26 M parameters with the default parts).

Letters: B images, M boxes and their queries over all images, r RoIAlign side, f cells of a mask along the side of one
of RoIAlign's, c mask width, d detector width, K classes, H × W padded input.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_convert, roi_align

from mask_frozen_detr.detectors.base import Detections, DetectorShapes
from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.network.box_encoder import build_box_encoder
from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.network.deformable import TokenGrid
from mask_frozen_detr.network.fusion import Fusion
from mask_frozen_detr.network.heads import HEADS, SubcellQueries
from mask_frozen_detr.network.image_encoder import IMAGE_ENCODERS
from mask_frozen_detr.network.mask_scoring import MaskScoring
from mask_frozen_detr.network.padding import Padding
from mask_frozen_detr.network.query_encoder import QueryLayer
from mask_frozen_detr.network.stem import PixelStem, choose_stages, choose_stem

BOXES_AT_A_TIME = 8


@dataclass
class MaskOutput:
    """Masks of M queries.

    logits: (M, h, w): r·f × r·f over the query's box, or over the whole padded input without RoIAlign.
    iou: (M, K) predicted mask IoU a class, or None without mask scoring.
    frames: (M, 4): x0, y0, x1, y1 of the region that the mask covers, in pixels of the padded input.
    """

    logits: Tensor
    iou: Tensor | None
    frames: Tensor


@dataclass(frozen=True)
class Chosen:
    """The queries that get masks.

    queries: (M, c), mapped to the mask width. boxes: (M, 4) as cx, cy, w, h in [0, 1] of the unpadded image.
    frames: (M, 4), the same as x0, y0, x1, y1 in pixels of the padded input. image_index: (M,).
    """

    queries: Tensor
    boxes: Tensor
    frames: Tensor
    image_index: Tensor

    def __getitem__(self, part: slice) -> "Chosen":
        return Chosen(self.queries[part], self.boxes[part], self.frames[part], self.image_index[part])


class MaskNetwork(nn.Module):
    """Masks for chosen queries of a frozen detector.

    Raises ValueError where the configuration does not fit the detector's widths.
    """

    def __init__(self, config: MaskNetworkConfig, shapes: DetectorShapes):
        super().__init__()
        self.config, self.shapes = config, shapes
        self.image_encoder = IMAGE_ENCODERS[config.image_encoder](shapes.feature_widths, config.image_layers)
        d = self.image_encoder.width
        self.stem = choose_stem(config, shapes)
        if not config.trainable:
            _check_widths(d, shapes.query_width, None if self.stem is None else self.stem.width)
        self.pixel_stem = PixelStem() if self.stem is not None and self.stem.source == "pixels" else None
        self.stages = choose_stages(self.stem, shapes)
        self.fusion = Fusion(d, shapes.strides[0], self.stem, config.neck, self.stages)
        c = d if config.mask_width is None else config.mask_width
        self.map_mapper = nn.Identity() if c == d else nn.Linear(d, c)
        self.query_mapper = nn.Identity() if c == shapes.query_width else nn.Linear(shapes.query_width, c)
        self.box_encoder = build_box_encoder(config, c)
        self.query_layers = nn.ModuleList(
            QueryLayer(c, config.query_ffn, config.query_b2o, config.query_o2o) for _ in range(config.query_layers)
        )
        # Normalised queries and features have a product of variance c: scaled, sigmoids do not start saturated.
        self.head = HEADS[config.head](c, scale=c**-0.5 if config.trainable else 1.0)
        self.subcells = SubcellQueries(c, config.upsample) if config.upsample > 1 else None
        self.scoring = MaskScoring(c, config.roi_size, shapes.num_classes) if config.mask_scoring else None

    def forward(
        self,
        detections: Detections,
        pixel_mask: Tensor | None,
        image_index: Tensor,
        query_index: Tensor,
        boxes: Tensor | None = None,
    ) -> MaskOutput:
        """Masks of queries `query_index` (M,) of images `image_index` (M,), the latter sorted.

        boxes: (M, 4) as cx, cy, w, h in [0, 1] of the unpadded image, in the place of the queries' own.

        pixel_mask: (B, H, W), 1 = image, or None where nothing is padded; then `detections.pixels` tells the size.
        Boxes are relative to the unpadded image and are scaled by its size, so that RoIAlign lands on the same pixels
        whatever the padding. Mask and indices best lie on the host: then a GPU need not be waited for.
        Raises ValueError where detections lack the stem or the pixels that the network needs.
        """
        padding = self.padding(detections, pixel_mask)
        maps = self.maps(detections, padding)
        device = maps.device
        given = None if boxes is None else send(boxes, device)
        chosen = self.choose(detections, padding, send(image_index, device), send(query_index, device), given)
        if not self.config.roi_align:
            h, w = maps.shape[2:]
            frame = chosen.frames.new_tensor([0, 0, w * self.fusion.stride, h * self.fusion.stride])
            logits = self.head(chosen.queries[:, None], maps[chosen.image_index])[:, 0]
            return MaskOutput(logits, None, frame.expand(len(logits), 4))
        logits, iou = self.box_masks(maps.contiguous(), chosen)  # or RoIAlign makes a copy for every piece
        if iou is not None and self.shapes.num_classes == 1:  # the classes of a prompt share one score
            iou = iou.expand(-1, detections.logits.shape[-1])
        return MaskOutput(logits, iou, chosen.frames)

    def padding(self, detections: Detections, pixel_mask: Tensor | None) -> Padding:
        """Where the images end: where no mask says otherwise, where their batch does."""
        if pixel_mask is not None:
            return Padding.of(pixel_mask, detections.queries.device)
        if detections.pixels is None:
            raise ValueError("pixel_mask: found None, and detections without pixels; expected one or the other")
        return Padding.none(detections.pixels)

    def maps(self, detections: Detections, padding: Padding) -> Tensor:
        """F of the whole images, mapped to the mask width: (B, c, H/4, W/4), with a finer look (B, c, H/2, W/2)."""
        stem, stem_valid = None, None
        if self.stem is not None:
            stem = detections.stem if self.pixel_stem is None else self._stem_of_pixels(detections, padding)
            if stem is None:
                raise ValueError("the mask network adds the backbone's earliest map, but the detections have no stem")
            stem_valid = padding.cells(stem, self.stem.stride)
        valid = padding.cells_of_levels(detections.features, self.shapes.strides)
        encoded = self.image_encoder(detections.features, valid)  # (B, d, H_1, W_1)
        encoded_valid, stages = None if valid is None else valid[0], detections.stages[: len(self.stages)]
        if len(stages) < len(self.stages):
            raise ValueError("the mask network adds maps of a finer look, but the detections have none")
        stages_valid = padding.cells_of_levels(stages, [stage.stride for stage in self.stages])
        return self.fusion(encoded, stem, encoded_valid, stem_valid, self.map_mapper, stages, stages_valid)

    def choose(
        self,
        detections: Detections,
        padding: Padding,
        image_index: Tensor,
        query_index: Tensor,
        boxes: Tensor | None = None,
    ) -> Chosen:
        """Queries at the indices (M,) and their boxes, or those given (M, 4), with the boxes in pixels."""
        boxes = (detections.boxes[image_index, query_index] if boxes is None else boxes).float()
        return Chosen(
            queries=self.query_mapper(detections.queries[image_index, query_index]),
            boxes=boxes,
            frames=pixel_boxes(boxes, padding.sizes[image_index]),
            image_index=image_index,
        )

    def box_masks(self, maps: Tensor, chosen: Chosen) -> tuple[Tensor, Tensor | None]:
        """F (B, c, h, w) and M chosen queries → mask logits (M, r·f, r·f), IoU (M, K) or None."""
        grid, pieces = self.box_encoder.grid(maps.device), [chosen]
        alone = not self.config.query_o2o and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if maps.device.type == "cpu" and alone and len(chosen.queries):
            # Boxes do not see each other: few at a time stay in the processor's cache.
            starts = range(0, len(chosen.queries), BOXES_AT_A_TIME)
            pieces = [chosen[start : start + BOXES_AT_A_TIME] for start in starts]
        parts = [self._masks_of_piece(maps, piece, grid) for piece in pieces]
        logits = torch.cat([mask for mask, _ in parts])
        return logits, None if self.scoring is None else torch.cat([iou for _, iou in parts if iou is not None])

    def _masks_of_piece(self, maps: Tensor, chosen: Chosen, grid: TokenGrid | None) -> tuple[Tensor, Tensor | None]:
        rois = torch.cat([chosen.image_index[:, None].to(chosen.frames), chosen.frames], 1)
        size, samples = self.config.roi_size, self.config.roi_samples
        features = roi_align(  # R: (M, c, r, r)
            maps.float(), rois, size, 1 / self.fusion.stride, sampling_ratio=samples, aligned=True
        ).to(maps.dtype)
        queries = chosen.queries
        for index in range(self.config.box_layers):
            features = self.box_encoder.layer(index, features, grid)
            if self.query_layers:
                queries = self.query_layers[index](queries, features, chosen.boxes, chosen.image_index)
        logits = self._drawn(queries, features)
        return logits, None if self.scoring is None else self.scoring(logits, features)

    def _drawn(self, queries: Tensor, features: Tensor) -> Tensor:
        """Equation 4: queries (M, c), R (M, c, r, r) → logits (M, r·f, r·f)."""
        if self.subcells is None:
            return self.head(queries[:, None], features)[:, 0]
        return F.pixel_shuffle(self.head(self.subcells(queries), features), self.config.upsample)[:, 0]

    def _stem_of_pixels(self, detections: Detections, padding: Padding) -> Tensor:
        assert self.pixel_stem is not None
        if detections.pixels is None:
            raise ValueError("the mask network learns from the pixels, but the detections have none")
        return self.pixel_stem(detections.pixels, padding.mask)


def _check_widths(features: int, queries: int, stem: int | None) -> None:
    """The training-free baseline takes everything as it is, so widths must agree. Raises ValueError."""
    if stem not in (None, features):
        raise ValueError(
            f"the training-free baseline adds C₁ to E₁ as they are: C₁ has {stem} channels, E₁ {features}; "
            "leave C₁ out with stem = False"
        )
    if queries != features:
        raise ValueError(
            f"the training-free baseline multiplies queries and features as they are: the detector's queries "
            f"have width {queries}, its features {features}"
        )


def pixel_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(M, 4) cx, cy, w, h relative to the unpadded image → x0, y0, x1, y1 in pixels of the padded input.

    sizes: (M, 2), the unpadded width and height of each box's image.
    Clipped to the image: there is nothing to segment outside, and RoIAlign's cells are better spent within. A box
    that the detector left inside out is empty.
    """
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:].clamp(min=0)], 1)
    return box_convert(boxes, "cxcywh", "xyxy").clamp(0, 1) * sizes.repeat(1, 2).to(boxes)
