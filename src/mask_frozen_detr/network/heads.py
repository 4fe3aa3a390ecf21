"""Mask heads (paper, equation 4 and Table 14): logits of query against feature map.

Letters: M boxes and their queries, r × r box features, c mask width.
"""

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle

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


class SubPixelHead(nn.Module):
    """The product of four queries, one for each quarter of a cell: masks of twice the features' resolution.

    Not in the paper: refining r × r cells costs a quarter of 2r × 2r, and the border is drawn as finely (Shi et al.,
    2016, shuffle channels to pixels alike). All four begin as the query itself.
    """

    def __init__(self, width: int, scale: float):
        super().__init__()
        self.scale = scale
        self.quarters = nn.Linear(width, 4 * width)
        nn.init.zeros_(self.quarters.weight)
        nn.init.zeros_(self.quarters.bias)

    def forward(self, queries: Tensor, maps: Tensor) -> Tensor:
        """queries (M, c), maps (M, c, h, w) → logits (M, 2h, 2w)."""
        M, c, h, w = maps.shape
        quarters = queries[:, None] + self.quarters(queries).view(M, 4, c)
        logits = (quarters @ maps.flatten(2)).view(M, 4, h, w) * self.scale
        return pixel_shuffle(logits, 2)[:, 0]


HEADS: dict[HeadKind, type[nn.Module]] = {
    "dot-product": DotProductHead,
    "segmenter": SegmenterHead,
    "sub-pixel": SubPixelHead,
}
