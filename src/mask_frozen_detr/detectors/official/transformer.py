"""Encoder and decoder of Deformable DETR (Zhu et al., 2020), as H-Deformable-DETR and DINO use them.

Post-norm, ReLU, no dropout. Modules and parameters bear the official checkpoints' names.
Letters: B images, S tokens of all levels, Q queries, N tokens or queries, L levels, H heads, P points, d width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask_frozen_detr.detectors.official.config import OfficialConfig
from mask_frozen_detr.detectors.official.position import inverse_sigmoid, sine_of_boxes
from mask_frozen_detr.ops.deformable_attention import deformable_attention
from mask_frozen_detr.ops.padding import extents
from mask_frozen_detr.ops.sampling import level_sizes, sampling_locations


@dataclass
class Levels:
    """Sizes and padding of the feature levels.

    shapes: (h_l, w_l) of each. valid: (B, S), False at padding. sizes: (L, 2) and valid_sizes: (B, L, 2), padded
    and unpadded w, h in cells.
    """

    shapes: list[tuple[int, int]]
    valid: Tensor
    sizes: Tensor
    valid_sizes: Tensor

    @classmethod
    def of(cls, masks: Sequence[Tensor]) -> "Levels":
        """The levels of (B, h_l, w_l) masks, one a level, True = image."""
        shapes = [(mask.shape[1], mask.shape[2]) for mask in masks]
        return cls(
            shapes=shapes,
            valid=torch.cat([mask.flatten(1) for mask in masks], 1),
            sizes=level_sizes(shapes, masks[0].device),
            valid_sizes=torch.stack([extents(mask) for mask in masks], 1).float(),
        )

    @property
    def ratios(self) -> Tensor:
        """(B, L, 2): the part of each level's width and height that is image."""
        return self.valid_sizes / self.sizes

    def split(self, tokens: Tensor) -> list[Tensor]:
        """(B, S, d) → (B, d, h_l, w_l) each."""
        parts = tokens.split([h * w for h, w in self.shapes], 1)
        return [
            part.transpose(1, 2).unflatten(2, shape).contiguous()
            for part, shape in zip(parts, self.shapes, strict=True)
        ]


class DeformableAttention(nn.Module):
    """Each query looks at `points` places a head and level around its reference point or in its reference box."""

    def __init__(self, config: OfficialConfig):
        super().__init__()
        width, samples = config.width, config.heads * config.levels * config.points
        self.counts = (config.heads, config.levels, config.points)
        self.sampling_offsets = nn.Linear(width, samples * 2)
        self.attention_weights = nn.Linear(width, samples)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)

    def forward(self, queries: Tensor, references: Tensor, memory: Tensor, levels: Levels) -> Tensor:
        """queries (B, N, d) and memory (B, S, d) → (B, N, d).

        references: (B, N, L, 2) points or (B, N, L, 4) boxes, relative to each level's **padded** extent.
        """
        heads, num_levels, points = self.counts
        value = self.value_proj(memory).masked_fill(~levels.valid[..., None], 0.0)
        offsets = self.sampling_offsets(queries).unflatten(-1, (*self.counts, 2))  # (B, N, H, L, P, 2)
        weights = self.attention_weights(queries).float().unflatten(-1, (heads, num_levels * points)).softmax(-1)
        if references.shape[-1] == 2:
            locations = sampling_locations(references, offsets, levels.sizes)
        else:
            centres, extents = references[:, :, None, :, None].split(2, -1)
            locations = centres + offsets / points * extents * 0.5
        # Half-precision locations would be off by a good part of a pixel.
        attended = deformable_attention(
            value.unflatten(-1, (heads, -1)),
            levels.shapes,
            locations.float(),
            weights.unflatten(-1, (num_levels, points)),
        )
        return self.output_proj(attended)


class EncoderLayer(nn.Module):
    """Deformable self-attention and feed-forward."""

    def __init__(self, config: OfficialConfig):
        super().__init__()
        self.self_attn = DeformableAttention(config)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.ffn)
        self.linear2 = nn.Linear(config.ffn, config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor, position: Tensor, references: Tensor, levels: Levels) -> Tensor:
        """(B, S, d) → (B, S, d)."""
        tokens = self.norm1(tokens + self.self_attn(tokens + position, references, tokens, levels))
        return self.norm2(tokens + self.linear2(F.relu(self.linear1(tokens))))


class Encoder(nn.Module):
    """The encoder layers, without a norm after the last."""

    def __init__(self, config: OfficialConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(
        self, tokens: Tensor, position: Tensor, references: Tensor, levels: Levels, keep: int
    ) -> tuple[Tensor, Tensor]:
        """tokens, position (B, S, d), references (B, S, L, 2) → (B, S, d) after the last layer and the `keep`-th."""
        kept = tokens
        for number, layer in enumerate(self.layers, start=1):
            tokens = layer(tokens, position, references, levels)
            kept = tokens if number == keep else kept
        return tokens, kept


class DecoderLayer(nn.Module):
    """Self-attention over the queries, deformable cross-attention to the memory, feed-forward."""

    def __init__(self, config: OfficialConfig):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(config.width, config.heads, batch_first=True)
        self.norm2 = nn.LayerNorm(config.width)
        self.cross_attn = DeformableAttention(config)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.ffn)
        self.linear2 = nn.Linear(config.ffn, config.width)
        self.norm3 = nn.LayerNorm(config.width)

    def forward(self, states: Tensor, position: Tensor, references: Tensor, memory: Tensor, levels: Levels) -> Tensor:
        """states, position (B, Q, d), references (B, Q, L, 4), memory (B, S, d) → (B, Q, d)."""
        query = states + position
        states = self.norm2(states + self.self_attn(query, query, states, need_weights=False)[0])
        states = self.norm1(states + self.cross_attn(states + position, references, memory, levels))
        return self.norm3(states + self.linear2(F.relu(self.linear1(states))))


class MLP(nn.Module):
    """Linear layers with ReLU in between."""

    def __init__(self, *widths: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, values: Tensor) -> Tensor:
        """(…, first width) → (…, last width)."""
        for layer in self.layers[:-1]:
            values = F.relu(layer(values))
        return self.layers[-1](values)


class Decoder(nn.Module):
    """The decoder layers with iterative box refinement."""

    def __init__(self, config: OfficialConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.width) if config.decoder_norm else nn.Identity()
        self.ref_point_head = MLP(2 * config.width, config.width, config.width) if config.position_per_layer else None

    def forward(
        self,
        states: Tensor,
        position: Tensor | None,
        boxes: Tensor,
        memory: Tensor,
        levels: Levels,
        box_heads: nn.ModuleList,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Runs the layers.

        states: (B, Q, d) content. position: (B, Q, d) for all layers, None where each layer makes its own.
        boxes: (B, Q, 4) proposals in [0, 1] of the unpadded image. memory: (B, S, d). box_heads: one a layer.
        Returns each layer's states (B, Q, d) and predicted boxes (B, Q, 4).
        """
        eps = self.config.logit_eps
        outputs, predictions = [], []
        reference = boxes  # where a layer looks; `boxes` is the same with its gradient
        for layer, box_head in zip(self.layers, box_heads, strict=True):
            places = reference[:, :, None] * levels.ratios.repeat(1, 1, 2)[:, None]  # (B, Q, L, 4)
            if self.ref_point_head is not None:
                first = places[:, :, 0, [1, 0, 2, 3]]  # y, x, w, h on the finest level
                position = self.ref_point_head(sine_of_boxes(first, self.config.width // 2).to(states.dtype))
            states = layer(states, position, places, memory, levels)
            outputs.append(self.norm(states))
            start = inverse_sigmoid(boxes if self.config.look_forward_twice else reference, eps)
            predictions.append((box_head(outputs[-1]).float() + start).sigmoid())
            boxes = (box_head(states).float() + inverse_sigmoid(reference, eps)).sigmoid()
            reference = boxes.detach()
        return outputs, predictions
