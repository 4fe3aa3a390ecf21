"""The Swin layer of the image and box feature encoders (paper, equation 7; Liu et al., 2021).

LayerNorm → (shifted) window attention with relative position bias → LayerNorm → FFN: torchvision's block.
"""

from torch import Tensor, nn
from torchvision.models.swin_transformer import SwinTransformerBlock


class SwinLayer(nn.Module):
    """(B, C, h, w) → (B, C, h, w). Every second layer (odd `index`) shifts its windows by half."""

    def __init__(self, width: int, window: int, index: int, heads: int = 8):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        shift = window // 2 if index % 2 else 0
        self.block = SwinTransformerBlock(width, heads, [window, window], [shift, shift])

    def forward(self, maps: Tensor) -> Tensor:
        return self.block(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
