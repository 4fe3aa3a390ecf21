"""Deformable attention (Zhu et al., 2020, equation 3): the one function all of the project's modules call.

Letters: B maps, S = Σ h_l·w_l value tokens, N queries, H heads, D head width, L levels, P points.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values sampled at fractional locations.

    value: (B, S, H, D), the levels flattened row by row and joined, level 0 first.
    shapes: (h_l, w_l) of each level.
    locations: (B, N, H, L, P, 2), x and y in [0, 1] of each level's extent (`align_corners=False`: 0 is the
        outer edge of the first cell). Bilinear; zero outside.
    weights: (B, N, H, L, P), usually summing to 1 over (L, P).

    Returns (B, N, H·D).
    """
    B, _, H, D = value.shape
    N, P = locations.shape[1], locations.shape[4]
    grids = 2 * locations - 1
    output = value.new_zeros(())
    levels = value.split([h * w for h, w in shapes], dim=1)
    for level, ((h, w), level_value) in enumerate(zip(shapes, levels, strict=True)):
        maps = level_value.permute(0, 2, 3, 1).reshape(B * H, D, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(B * H, N, P, 2)
        sampled = F.grid_sample(maps, grid.to(maps.dtype), padding_mode="zeros", align_corners=False)
        level_weights = weights[:, :, :, level].transpose(1, 2).reshape(B * H, 1, N, P)
        output = output + (sampled * level_weights).sum(-1)  # (B·H, D, N)
    return output.view(B, H * D, N).transpose(1, 2).contiguous()


def cell_centres(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(h·w, 2): x, y of the centres of a map's cells, in cells, row by row."""
    y = torch.arange(height, device=device) + 0.5
    x = torch.arange(width, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
