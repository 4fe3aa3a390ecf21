"""The box feature encoder F_b (paper, section 3.3, equation 9): one layer at a time, so that queries can interleave.

Letters: M boxes, r RoIAlign side, c mask width.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_frozen_detr.network.config import MaskNetworkConfig
from mask_frozen_detr.network.convnext import BatchNormConvNeXtLayer, ConvNeXtLayer
from mask_frozen_detr.network.deformable import DeformableLayer, TokenGrid
from mask_frozen_detr.network.swin import SwinLayer

BOX_WINDOW = 8
COARSEST = 4  # cells along the side of one of the coarsest layer's: any r is a multiple of it


class DeformableBoxEncoder(nn.Module):
    """Single-level deformable layers with a learned r × r × c position embedding."""

    def __init__(self, width: int, layers: int, size: int):
        super().__init__()
        self.size = size
        self.position = nn.Parameter(torch.empty(1, size * size, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.layers = nn.ModuleList(DeformableLayer(width, levels=1) for _ in range(layers))

    def grid(self, device: torch.device) -> TokenGrid:
        """The r × r cells of a box, for all boxes and layers of a forward pass."""
        return TokenGrid.of([(self.size, self.size)], device)

    def layer(self, index: int, boxes: Tensor, grid: TokenGrid | None) -> Tensor:
        """Layer `index` of (M, c, r, r) box features → (M, c, r, r); grid: of `grid`."""
        assert grid is not None
        tokens = boxes.flatten(2).transpose(1, 2).contiguous()  # (M, r·r, c): once, not for each that reads them
        tokens = self.layers[index](tokens, grid, self.position)
        return tokens.transpose(1, 2).unflatten(2, (self.size, self.size))


class MapBoxEncoder(nn.Module):
    """Layers that take maps as they are: Swin's, ConvNeXt's, or none at all (equation 3).

    pyramid: each ConvNeXt layer but the last sees means of several cells, and what it adds is spread over them (not in
    the paper).
    """

    def __init__(self, layers: Iterable[nn.Module], pyramid: bool = False):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        count = len(self.layers)
        self.strides = [min(2 ** (count - 1 - index), COARSEST) if pyramid else 1 for index in range(count)]

    def grid(self, device: torch.device) -> None:
        """These layers look at neighbours, not at places."""

    def layer(self, index: int, boxes: Tensor, grid: TokenGrid | None) -> Tensor:
        """Layer `index` of (M, c, r, r) box features → (M, c, r, r)."""
        layer, stride = self.layers[index], self.strides[index]
        if stride == 1:
            return layer(boxes)
        assert isinstance(layer, ConvNeXtLayer | BatchNormConvNeXtLayer)
        change = layer.change(F.avg_pool2d(boxes, stride))
        return boxes + F.interpolate(change, scale_factor=float(stride), mode="bilinear", align_corners=False)


BoxEncoder = DeformableBoxEncoder | MapBoxEncoder


def build_box_encoder(config: MaskNetworkConfig, width: int) -> BoxEncoder:
    """The configuration's layers on box features of `width` channels."""
    count = config.box_layers
    if config.box_encoder == "deformable":
        return DeformableBoxEncoder(width, count, config.roi_size)
    if config.box_encoder == "swin":
        return MapBoxEncoder(SwinLayer(width, BOX_WINDOW, index) for index in range(count))
    convnext = BatchNormConvNeXtLayer if config.box_norm == "batch" else ConvNeXtLayer
    layers = (convnext(width, config.box_activation) for _ in range(count))  # 'none' has no layer
    return MapBoxEncoder(layers, config.box_pyramid)
