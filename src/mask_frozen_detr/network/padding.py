"""Which part of a batch is image, and which is padding.

Letters: B images, H × W padded input, h × w cells of a map.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mask_frozen_detr.machine.devices import send
from mask_frozen_detr.ops.padding import extents, valid_cells


@dataclass(frozen=True)
class Padding:
    """Where the images of a batch end, on the device that the network runs on.

    sizes: (B, 2), the unpadded width and height of each image in pixels.
    mask: (B, H, W), 1 = image; None where nothing is padded.
    """

    sizes: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, pixel_mask: Tensor, device: torch.device) -> "Padding":
        """The padding of (B, H, W) pixel masks, 1 = image. They best lie on the host, for they are looked at.

        What is exported cannot be looked at: there the mask is data, whatever it says.
        """
        padded = torch.compiler.is_exporting() or bool((pixel_mask == 0).any())
        return cls(send(extents(pixel_mask), device), send(pixel_mask, device) if padded else None)

    @classmethod
    def none(cls, pixels: Tensor) -> "Padding":
        """No padding: (B, 3, H, W) images fill their batch. No number is looked at, so that export can trace it."""
        B, _, H, W = pixels.shape
        return cls(send(torch.tensor([[W, H]]), pixels.device).expand(B, 2), None)

    def cells(self, maps: Tensor, stride: int) -> Tensor | None:
        """Which cells of (B, C, h, w) maps of a stride start inside the image: (B, h, w) bool, None where all do."""
        return None if self.mask is None else valid_cells(self.mask, maps.shape[2:], stride)

    def cells_of_levels(self, levels: Sequence[Tensor], strides: Sequence[int]) -> list[Tensor] | None:
        """`cells` of several maps, each of its own stride."""
        cells = [self.cells(maps, stride) for maps, stride in zip(levels, strides, strict=True)]
        return None if self.mask is None else [valid for valid in cells if valid is not None]
