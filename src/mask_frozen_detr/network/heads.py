"""Mask heads (paper, equation 4 and Table 14): logits of query against feature map.

Letters: M boxes and their queries, r × r box features, c mask width, f cells of a mask along the side of one of theirs.
"""

from torch import Tensor, nn

from mask_frozen_detr.network.config import HeadKind


class DotProductHead(nn.Module):
    """q · Rᵀ, times a fixed scale."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, queries: Tensor, maps: Tensor) -> Tensor:
        """queries (M, k, c), k of each box; maps (M, c, h, w) → logits (M, k, h, w)."""
        return (queries @ maps.flatten(2)).unflatten(2, maps.shape[2:]) * self.scale


class SegmenterHead(nn.Module):
    """Projections of both sides, then LayerNorm, then the product (Strudel et al., 2021)."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale
        self.query_projection = nn.Linear(width, width, bias=False)
        self.map_projection = nn.Linear(width, width, bias=False)
        self.query_norm = nn.LayerNorm(width)
        self.map_norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, maps: Tensor) -> Tensor:
        """queries (M, k, c), k of each box; maps (M, c, h, w) → logits (M, k, h, w)."""
        tokens = self.map_norm(self.map_projection(maps.flatten(2).transpose(1, 2)))  # (M, h·w, c)
        queries = self.query_norm(self.query_projection(queries))
        return (queries @ tokens.transpose(1, 2)).unflatten(2, maps.shape[2:]) * self.scale


class SubcellQueries(nn.Module):
    """f² queries of each, one for each part of a cell: box features are refined coarsely, and masks drawn finely.

    Sub-pixel convolution (Shi et al., 2016), with filters that are made of the query.
    """

    def __init__(self, width: int, factor: int):
        super().__init__()
        self.factor = factor
        self.offsets = nn.Linear(width, factor**2 * width)
        nn.init.normal_(self.offsets.weight, std=0.02)  # the parts start nearly alike
        nn.init.zeros_(self.offsets.bias)

    def forward(self, queries: Tensor) -> Tensor:
        """(M, c) → (M, f², c), the parts of a cell row by row."""
        return queries[:, None] + self.offsets(queries).unflatten(1, (self.factor**2, -1))


HEADS: dict[HeadKind, type[nn.Module]] = {"dot-product": DotProductHead, "segmenter": SegmenterHead}
