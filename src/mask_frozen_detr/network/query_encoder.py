"""The query feature encoder (paper, section 3.4, equations 10 and 11).

Letters: M boxes and their queries over all images, r RoIAlign side, c mask width.
"""

import math

import torch
from torch import Tensor, nn

POSITION_WIDTH = 256


class QueryLayer(nn.Module):
    """[O2O self-attention] → [B2O cross-attention] → [FFN], each residual with LayerNorm after it."""

    def __init__(self, width: int, ffn: bool, b2o: bool, o2o: bool, heads: int = 8):
        super().__init__()
        self.o2o = ObjectToObject(width, heads) if o2o else None
        self.b2o = BoxToObject(width, heads) if b2o else None
        self.b2o_norm = nn.LayerNorm(width) if b2o else None
        self.ffn = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) if ffn else None
        self.ffn_norm = nn.LayerNorm(width) if ffn else None

    def forward(self, queries: Tensor, features: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """queries (M, c), box features (M, c, r, r), boxes (M, 4) as cx, cy, w, h in [0, 1], image_index (M,) → (M, c).

        Queries of one image see each other, wherever they stand.
        """
        if self.o2o is not None:
            queries = self.o2o(queries, boxes, image_index)
        if self.b2o is not None and self.b2o_norm is not None:
            queries = self.b2o_norm(queries + self.b2o(queries, features))
        if self.ffn is not None and self.ffn_norm is not None:
            queries = self.ffn_norm(queries + self.ffn(queries))
        return queries


class BoxToObject(nn.Module):
    """Attention of each query to its own box's features (equation 11). No query sees another.

    There is one query a box, so it costs less to take the query to the features than their keys and values to the
    query: q · (W x) = (Wᵀ q) · x, and Σ a (V x) = V (Σ a x). The keys' bias shifts all weights alike and so none.
    """

    def __init__(self, width: int, heads: int = 8):
        super().__init__()
        self.num_heads = heads
        attention = nn.MultiheadAttention(width, heads, batch_first=True)  # its parameters, under its names
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.out_proj = attention.out_proj

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """queries (M, c), box features (M, c, r, r) → (M, c)."""
        M, c = queries.shape
        H, D = self.num_heads, c // self.num_heads
        tokens = features.flatten(2)  # (M, c, r·r)
        of_query, of_key, of_value = self.in_proj_weight.view(3, H, D, c)
        query_bias, _, value_bias = self.in_proj_bias.view(3, H, D)
        query = (torch.einsum("mc,hdc->mhd", queries, of_query) + query_bias) * D**-0.5
        weights = (torch.einsum("mhd,hdc->mhc", query, of_key) @ tokens).softmax(-1)  # (M, H, r·r)
        seen = weights @ tokens.transpose(1, 2)  # (M, H, c)
        attended = torch.einsum("mhc,hdc->mhd", seen, of_value) + value_bias
        return self.out_proj(attended.reshape(M, c))


class ObjectToObject(nn.Module):
    """Self-attention among the queries of one image (equation 10), with their boxes as position."""

    def __init__(self, width: int, heads: int = 8):
        super().__init__()
        self.position = nn.Linear(POSITION_WIDTH, width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, boxes: Tensor, image_index: Tensor) -> Tensor:
        """queries (M, c), boxes (M, 4) as cx, cy, w, h in [0, 1] and the images (M,) they belong to → (M, c)."""
        if not len(queries):
            return queries
        position = self.position(sine_embedding(boxes, POSITION_WIDTH).to(queries.dtype))
        others = image_index[:, None] != image_index  # (M, M): objects of other images are not seen
        keys = queries + position
        attended = self.attention(keys, keys, queries, attn_mask=others, need_weights=False)[0]
        return self.norm(queries + attended)


def sine_embedding(coordinates: Tensor, width: int) -> Tensor:
    """Sines and cosines of (M, 4) coordinates in [0, 1], `width` / 4 numbers a coordinate: (M, width)."""
    count = width // 8
    frequencies = 2 * math.pi * 10000 ** (-torch.arange(count, device=coordinates.device) / count)
    angles = coordinates[..., None] * frequencies  # (M, 4, width / 8)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)
