"""The box feature encoder F_b (paper, section 3.3, equation 9): one layer at a time, so that queries can interleave.

Letters: M boxes, r RoIAlign side, c mask width.
"""

import torch
from torch import Tensor, nn

from mask_frozen_detr.network.config import EncoderKind
from mask_frozen_detr.network.convnext import ConvNeXtLayer
from mask_frozen_detr.network.deformable import DeformableLayer
from mask_frozen_detr.network.swin import SwinLayer
from mask_frozen_detr.ops.sampling import reference_points

BOX_WINDOW = 8


class BoxLayers(nn.Module):
    """Layers on (M, c, r, r) box features, run one by one."""

    def __init__(self, width: int, layers: int, size: int):
        super().__init__()

    def layer(self, index: int, boxes: Tensor) -> Tensor:
        """Layer `index` of (M, c, r, r) → (M, c, r, r)."""
        raise NotImplementedError


class DeformableBoxLayers(BoxLayers):
    """Single-level deformable layers with a learned r × r × c position embedding."""

    def __init__(self, width: int, layers: int, size: int):
        super().__init__(width, layers, size)
        self.size = size
        self.position = nn.Parameter(torch.empty(1, size * size, width))
        nn.init.trunc_normal_(self.position, std=0.02)
        self.layers = nn.ModuleList(DeformableLayer(width, levels=1) for _ in range(layers))

    def layer(self, index: int, boxes: Tensor) -> Tensor:
        shapes = [(self.size, self.size)]
        references = reference_points(shapes, None, boxes.device).expand(len(boxes), -1, -1, -1)
        tokens = boxes.flatten(2).transpose(1, 2).contiguous()  # (M, r·r, c): once, not for each that reads them
        tokens = self.layers[index](tokens, self.position, references, shapes)
        return tokens.transpose(1, 2).unflatten(2, (self.size, self.size))


class SwinBoxLayers(BoxLayers):
    """Window-8 Swin layers; every second one shifted."""

    def __init__(self, width: int, layers: int, size: int):
        super().__init__(width, layers, size)
        self.layers = nn.ModuleList(SwinLayer(width, BOX_WINDOW, i) for i in range(layers))

    def layer(self, index: int, boxes: Tensor) -> Tensor:
        return self.layers[index](boxes)


class ConvNeXtBoxLayers(BoxLayers):
    """ConvNeXt layers."""

    def __init__(self, width: int, layers: int, size: int):
        super().__init__(width, layers, size)
        self.layers = nn.ModuleList(ConvNeXtLayer(width) for _ in range(layers))

    def layer(self, index: int, boxes: Tensor) -> Tensor:
        return self.layers[index](boxes)


class NoBoxLayers(BoxLayers):
    """No layers: the box features as RoIAlign gives them (equation 3)."""

    def __init__(self, width: int, layers: int, size: int):
        super().__init__(width, layers, size)
        self.layers = nn.ModuleList()

    def layer(self, index: int, boxes: Tensor) -> Tensor:
        raise IndexError("there is no layer to run")


BOX_ENCODERS: dict[EncoderKind, type[BoxLayers]] = {
    "deformable": DeformableBoxLayers,
    "swin": SwinBoxLayers,
    "convnext": ConvNeXtBoxLayers,
    "none": NoBoxLayers,
}
