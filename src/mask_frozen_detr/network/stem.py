"""Where the stride-4 detail comes from: the backbone's C₁ (paper, section 3.1), or a stem learned from the pixels.

The paper's detectors all have C₁. Where there is none, `PixelStem` is one choice, the backbone's earliest map another,
and E₁ upsampled, with nothing added to it, the third: docs/detectors.md has what was measured of them.
Letters: B images, H × W padded input.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_frozen_detr.detectors.base import DetectorShapes
from mask_frozen_detr.network.config import MaskNetworkConfig


@dataclass(frozen=True)
class Stem:
    """What is added to E₁: the backbone's earliest map, or what `PixelStem` makes of the pixels."""

    source: Literal["backbone", "pixels"]
    width: int  # channels
    stride: int  # input pixels a cell


def choose_stem(config: MaskNetworkConfig, shapes: DetectorShapes) -> Stem | None:
    """What is added to E₁, None for nothing. Raises ValueError where the detector does not have what is asked for."""
    if not config.stem or shapes.strides[0] <= 4:  # E₁ at stride 4 gets neither neck nor C₁ (Table 16)
        return None
    if config.stem_from == "pixels":
        return Stem("pixels", PixelStem.width, 4)
    if config.stem_from == "backbone" and shapes.stem_width is None:
        raise ValueError("stem_from 'backbone': the detector has no map finer than E₁; expected 'pixels' or 'auto'")
    if shapes.stem_width is None:
        return None
    backbone = Stem("backbone", shapes.stem_width, shapes.stem_stride)
    finer = backbone.stride < shapes.strides[0] and (config.trainable or backbone.stride <= 4)
    return backbone if config.stem_from == "backbone" or finer else None


def choose_stages(stem: Stem | None, shapes: DetectorShapes) -> tuple[Stem, ...]:
    """The backbone's coarser maps that are added besides, where it looked at the picture finer."""
    if stem is None or stem.source == "pixels":
        return ()
    return tuple(Stem("backbone", *of) for of in zip(shapes.stage_widths, shapes.stage_strides, strict=True))


class PixelStem(nn.Module):
    """Two 4 × 4 convolutions of stride 2: each cell is centred on its own pixels. 6,952 parameters.

    Padding is kept 0 in between, as beyond an image's own border, so that a padded batch changes nothing.
    """

    hidden, width = 16, 24

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, self.hidden, 4, stride=2, padding=1)
        self.second = nn.Conv2d(self.hidden, self.width, 4, stride=2, padding=1)

    def forward(self, pixels: Tensor, pixel_mask: Tensor | None) -> Tensor:
        """pixels (B, 3, H, W); pixel_mask (B, H, W), 1 = image, None where all is → (B, width, ⌈H/4⌉, ⌈W/4⌉)."""
        if pixel_mask is None:
            pixel_mask = torch.ones_like(pixels[:, 0])
        H, W = pixels.shape[2:]
        margin = (0, -W % 4, 0, -H % 4)
        pixels, inside = F.pad(pixels, margin), F.pad(pixel_mask, margin)[:, None].to(pixels.dtype)
        half = F.gelu(self.first(pixels * inside)) * inside[:, :, ::2, ::2]  # (B, hidden, H/2, W/2)
        return F.gelu(self.second(half))
