"""The deformable encoder layer of the image and box feature encoders (paper, equation 6).

MSDeformAttn → LayerNorm → Linear → GELU → Linear → LayerNorm, residual, post-norm.
Letters: B maps, S tokens of all levels, d width, L levels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mask_frozen_detr.ops.deformable_attention import deformable_attention
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.ops.sampling import level_sizes, reference_points, sampling_locations


@dataclass(frozen=True)
class TokenGrid:
    """The maps that tokens come from: made once a forward pass, read by every layer.

    shapes: (h, w) of each level. sizes: (L, 2), their w, h on the device. references: (B or 1, S, L, 2) in [0, 1],
    where each token looks first. valid: (B, S), False at padding; None where nothing is padded.
    """

    shapes: Sequence[tuple[int, int]]
    sizes: Tensor
    references: Tensor
    valid: Tensor | None

    @classmethod
    def of(
        cls, shapes: Sequence[tuple[int, int]], device: torch.device, valid: Sequence[Tensor] | None = None
    ) -> "TokenGrid":
        """The grid of levels of (h, w) cells. valid: (B, h, w) of each level, None where nothing is padded."""
        sizes = level_sizes(shapes, device)
        if valid is None:
            return cls(shapes, sizes, reference_points(shapes, sizes), None)
        valid_sizes = torch.stack([extents(mask) for mask in valid], 1)
        tokens = torch.cat([mask.flatten(1) for mask in valid], 1)
        return cls(shapes, sizes, reference_points(shapes, sizes, valid_sizes), tokens)


class DeformableSelfAttention(nn.Module):
    """Multi-scale deformable self-attention over flattened maps."""

    def __init__(self, width: int, levels: int, heads: int = 8, points: int = 4):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.levels, self.heads, self.points = levels, heads, points
        self.offsets = nn.Linear(width, heads * levels * points * 2)
        self.weights = nn.Linear(width, heads * levels * points)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self._reset()

    def _reset(self) -> None:
        """Points start on rays, one direction a head, so that heads look around from the first step."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1).view(1, 1, -1, 1)
        bias = rays.view(self.heads, 1, 1, 2) * steps  # (H, 1, P, 2)
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, tokens: Tensor, grid: TokenGrid, position: Tensor | None = None, count: int | None = None
    ) -> Tensor:
        """tokens (B, S, d) of `grid`; position (·, S, d) added to the queries; count: only the first N tokens look
        around, None: all. Values of padding are zeroed. Returns (B, N, d)."""
        B = tokens.shape[0]
        query = (tokens if position is None else tokens + position)[:, :count]
        N = query.shape[1]
        value = self.value(tokens)
        if grid.valid is not None:
            value = value.masked_fill(~grid.valid[..., None], 0.0)
        offsets = self.offsets(query).view(B, N, self.heads, self.levels, self.points, 2)
        weights = self.weights(query).view(B, N, self.heads, self.levels * self.points).softmax(-1)
        locations = sampling_locations(grid.references[:, :count], offsets, grid.sizes)
        attended = deformable_attention(
            value.unflatten(2, (self.heads, -1)),
            grid.shapes,
            locations,
            weights.view(B, N, self.heads, self.levels, self.points),
        )
        return self.output(attended)


class DeformableLayer(nn.Module):
    """One encoder layer: deformable attention and feed-forward, each residual with LayerNorm after it."""

    def __init__(self, width: int, levels: int, heads: int = 8, points: int = 4):
        super().__init__()
        self.attention = DeformableSelfAttention(width, levels, heads, points)
        self.norm1 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norm2 = nn.LayerNorm(width)

    def forward(
        self, tokens: Tensor, grid: TokenGrid, position: Tensor | None = None, count: int | None = None
    ) -> Tensor:
        """(B, S, d) → (B, N, d); arguments as in `DeformableSelfAttention.forward`."""
        attended = self.attention(tokens, grid, position, count)
        tokens = self.norm1(tokens[:, :count] + attended)
        return self.norm2(tokens + self.ffn(tokens))
