"""Mask heads (paper, equation 4 and Table 14): logits of query against feature map.

Letters: M boxes and their queries, r × r box features, c mask width.
"""

from torch import Tensor, nn

from mask_frozen_detr.network.config import HeadKind


class DotProductHead(nn.Module):
    """q · Rᵀ, times a fixed scale."""

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, queries: Tensor, maps: Tensor) -> Tensor:
        """queries (M, c), maps (M, c, h, w) → logits (M, h, w)."""
        M, _, h, w = maps.shape
        return (queries[:, None] @ maps.flatten(2)).view(M, h, w) * self.scale


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
        """queries (M, c), maps (M, c, h, w) → logits (M, h, w)."""
        M, _, h, w = maps.shape
        tokens = self.map_norm(self.map_projection(maps.flatten(2).transpose(1, 2)))  # (M, h·w, c)
        queries = self.query_norm(self.query_projection(queries))
        return (tokens @ queries[..., None]).view(M, h, w) * self.scale


HEADS: dict[HeadKind, type[nn.Module]] = {"dot-product": DotProductHead, "segmenter": SegmenterHead}
