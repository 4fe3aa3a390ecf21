"""The ConvNeXt layer of the image and box feature encoders (paper, equation 8; Liu et al., 2022).

7 × 7 depth-wise conv → LayerNorm → FFN, layer scale, residual: torchvision's block, its GELU or a ReLU in its place.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import CNBlock

from mask_frozen_detr.network.config import ActivationKind

GELU = 4  # its place in torchvision's block


class ConvNeXtLayer(nn.Module):
    """(B, C, h, w) → (B, C, h, w)."""

    def __init__(self, width: int, activation: ActivationKind = "gelu"):
        super().__init__()
        # The usual 1e-6 is for 300 epochs from scratch; six epochs never leave it.
        self.block = CNBlock(width, layer_scale=1.0, stochastic_depth_prob=0.0)
        if activation == "relu":
            self.block.block[GELU] = nn.ReLU()

    def forward(self, maps: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, C, h, w) → (B, C, h, w). valid: (B, 1, h, w), False at padding, kept zero as at an image's own border."""
        maps = _channels_last(maps)
        return self._block(maps) if valid is None else self._block(maps * valid) * valid

    def _block(self, maps: Tensor) -> Tensor:
        return maps + self.change(maps)

    def change(self, maps: Tensor) -> Tensor:
        """What the layer adds to maps without padding, as `CNBlock.forward` computes it.

        Its cells are one list: exported, a product and its bias are then one operator.
        """
        convolution, _, *perceptron, _ = self.block.block
        cells = convolution(maps).permute(0, 2, 3, 1)  # (B, h, w, C)
        shape, cells = cells.shape, cells.flatten(0, 2)
        for layer in perceptron:
            cells = layer(cells)
        return self.block.layer_scale * cells.view(shape).permute(0, 3, 1, 2)


class BatchNormConvNeXtLayer(nn.Module):
    """The same with batch normalisation, without layer scale (not in the paper): (B, C, h, w) → (B, C, h, w).

    When it has learned, its normalisation is part of the convolution, and nothing else stands between convolutions.
    So exported models need not turn their maps for it and back.
    """

    MOMENTUM = 0.02  # statistics of some fifty iterations: those of one, a few boxes, vary

    def __init__(self, width: int, activation: ActivationKind = "gelu"):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width, momentum=self.MOMENTUM)
        self.up = nn.Conv2d(width, 4 * width, 1)
        self.activation = nn.ReLU() if activation == "relu" else nn.GELU()
        self.down = nn.Conv2d(4 * width, width, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) → (B, C, h, w)."""
        return maps + self.change(maps)

    def change(self, maps: Tensor) -> Tensor:
        """What the layer adds. Statistics are those of all B, which may be none, while it learns."""
        maps = _channels_last(maps)
        seen = self.norm(self.depthwise(maps)) if self.training and len(maps) else self._normed(maps)
        return self.down(self.activation(self.up(seen)))

    def _normed(self, maps: Tensor) -> Tensor:
        """The convolution and, as part of it, the normalisation by what was learned."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        filters, bias = self.depthwise.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        return F.conv2d(maps, filters, bias, padding=3, groups=len(filters))


def _channels_last(maps: Tensor) -> Tensor:
    """On a CPU a depth-wise convolution learns in half the time so, and nothing is permuted."""
    return maps.contiguous(memory_format=torch.channels_last) if maps.device.type == "cpu" else maps
