"""Deformable attention for CPUs, as `embedding_bag`: an output is a weighted sum of rows of the table of values.

A sample is four rows, the corners of its cell, so L · P samples are one bag of 4 · L · P rows. `grid_sample` reads
the channels of a cell from as many places in memory; a row lies in one. What it wins depends on the size of the maps:
`pays` says where.
Letters: B maps, S = Σ h_l·w_l value tokens, N queries, H heads, D head width, L levels, P points.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LARGE = 1 << 19  # bytes of one head's maps: from about there a core's own cache holds them no more


def pays(value: Tensor) -> bool:
    """Whether bags are faster than `grid_sample` on (B, S, H, D) values."""
    return value.device.type == "cpu" and 4 * value.shape[1] * value.shape[3] >= LARGE


def deformable_attention_bags(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """As `deformable_attention`."""
    B, S, H, D = value.shape
    N, samples = locations.shape[1], 4 * len(shapes) * locations.shape[4]
    precision = torch.promote_types(value.dtype, torch.float32)
    sizes = torch.tensor([(w, h) for h, w in shapes], dtype=precision)
    rows, shares = Corners.apply(locations.to(precision), weights.to(precision), sizes, S)
    table = value.to(precision).reshape(B * S * H, D)
    rows, shares = rows.view(B * N * H, samples), shares.view(B * N * H, samples)
    return Bags.apply(table, rows, shares).view(B, N, H * D).to(value.dtype)


class Bags(Function):
    """table (T, D), rows and shares (M, R) → (M, D): `embedding_bag`, but with a backward pass twice as fast.

    The table's gradient is a sum of bags as well: each row of the table sums what of the outputs it had a share in.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(table, rows, shares)
        return F.embedding_bag(rows, table, per_sample_weights=shares, mode="sum")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, shares = ctx.saved_tensors
        of_table = of_shares = None
        if ctx.needs_input_grad[0]:
            order = rows.flatten().argsort()
            counts = rows.flatten().bincount(minlength=len(table))
            starts = counts.cumsum(0) - counts
            parts = shares.flatten()[order]
            of_table = F.embedding_bag(
                order // rows.shape[1], gradients[0], starts, per_sample_weights=parts, mode="sum"
            )
        if ctx.needs_input_grad[2]:
            with torch.enable_grad():
                shares = shares.detach().requires_grad_()
                bags = F.embedding_bag(rows, table.detach(), per_sample_weights=shares, mode="sum")
                (of_shares,) = torch.autograd.grad(bags, shares, gradients[0])
        return of_table, None, of_shares


class Corners(Function):
    """Where samples read, and how much of each.

    locations (B, N, H, L, P, 2), weights (B, N, H, L, P), sizes (L, 2) as w, h, and S → rows of the table
    (B, N, H, L, P, 4) and the share that each has (B, N, H, L, P, 4), zero outside the map. Corners: left and right
    of the upper row, then of the lower one. By hand, since autograd would keep a dozen tensors of that size.
    """

    @staticmethod
    def forward(ctx: Any, locations: Tensor, weights: Tensor, sizes: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        B, _, H, L = locations.shape[:4]
        widths, most = sizes[:, 0].long(), sizes[:, None] - 1  # (L,), (L, 1, 2)
        places = torch.addcmul(sizes.new_tensor(-0.5), locations, sizes[:, None])
        low = places.floor()
        further = places.sub_(low)  # of the way to the next cell
        low.clamp_(min=-2).clamp_(max=most + 1)  # all that lies outside is one and the same
        here, there = ((low >= 0) & (low <= most)).to(low), ((low >= -1) & (low < most)).to(low)
        slopes = torch.stack([-here, there], -1)  # (B, N, H, L, P, axis, corner)
        parts = torch.stack([(1 - further) * here, further * there], -1)
        shares = parts[..., 1, :, None] * parts[..., 0, None, :]  # (B, N, H, L, P, row, column)
        ctx.save_for_backward(parts, slopes, weights, sizes)

        kind = torch.int32 if B * tokens * H < 2**31 - 2**24 else torch.int64
        starts = torch.cat([widths.new_zeros(1), (sizes[:, 0] * sizes[:, 1]).long().cumsum(0)[:-1]])
        first = torch.arange(B)[:, None, None] * tokens + starts[:, None]  # (B, L, 1)
        first = first[:, None] * H + torch.arange(H)[:, None, None]  # (B, H, L, 1)
        column, line = low.to(kind).unbind(-1)
        rows = (column + line * widths.to(kind)[:, None]).mul_(H).add_(first.to(kind)[:, None])
        steps = torch.stack([torch.zeros(L), torch.ones(L), sizes[:, 0], sizes[:, 0] + 1], -1).to(kind) * H  # (L, 4)
        rows = (rows[..., None] + steps[:, None]).clamp_(0, B * tokens * H - 1)  # those outside have no share anyway
        ctx.mark_non_differentiable(rows)
        return rows, shares.mul_(weights[..., None, None]).flatten(-2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        parts, slopes, weights, sizes = ctx.saved_tensors
        of_shares = gradients[1].unflatten(-1, (2, 2))
        across = (of_shares * parts[..., 0, None, :]).sum(-1)  # a row each
        down = (of_shares * parts[..., 1, :, None]).sum(-2)  # a column each
        of_weights = (across * parts[..., 1, :]).sum(-1)
        of_places = torch.stack([(down * slopes[..., 0, :]).sum(-1), (across * slopes[..., 1, :]).sum(-1)], -1)
        return of_places * weights[..., None] * sizes[:, None], of_weights, None, None
