"""The ConvNeXt layer of the image and box feature encoders (paper, equation 8; Liu et al., 2022).

7 × 7 depth-wise conv → LayerNorm → FFN, layer scale, residual: torchvision's block, its GELU or a ReLU in its place.
"""

import torch
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
        if maps.device.type == "cpu":  # its depth-wise convolution learns in half the time, and nothing is permuted
            maps = maps.contiguous(memory_format=torch.channels_last)
        return self._block(maps) if valid is None else self._block(maps * valid) * valid

    def _block(self, maps: Tensor) -> Tensor:
        """`CNBlock.forward` with its cells as one list: exported, a product and its bias are then one operator."""
        convolution, _, *perceptron, _ = self.block.block
        cells = convolution(maps).permute(0, 2, 3, 1)  # (B, h, w, C)
        shape, cells = cells.shape, cells.flatten(0, 2)
        for layer in perceptron:
            cells = layer(cells)
        return maps + self.block.layer_scale * cells.view(shape).permute(0, 3, 1, 2)
