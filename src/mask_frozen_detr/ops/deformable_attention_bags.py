"""Deformable attention for CPUs, as `embedding_bag`: an output is a weighted sum of rows of the table of values.

A sample is four rows, the corners of its cell, so L · P samples are one bag of 4 · L · P rows. `grid_sample` reads
the channels of a cell from as many places in memory; a row lies in one. Each map gets a border of zeros, so that
nothing has to be known about what lies outside. Numbers of the L · P samples of a query and head lie side by side:
loops over fewer are several times slower.
Letters: B maps, S = Σ h_l·w_l value tokens, N queries, H heads, D head width, L levels, P points.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

BORDER = 2  # cells: a sample at the border's far edge reads and learns nothing, as any further out


def deformable_attention_bags(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` by embedding bags: the fastest on a CPU."""
    B, _, H, D = value.shape
    N, samples = locations.shape[1], locations.shape[3] * locations.shape[4]
    precision = torch.promote_types(value.dtype, torch.float32)
    table = bordered(value.to(precision).flatten(2), shapes)  # (B, T, H·D)
    locations, weights = locations.to(precision), weights.to(precision)
    rows, shares = Corners.apply(locations, weights, shapes, table.shape[1])
    rows, shares = rows.view(B * N * H, 4 * samples), shares.view(B * N * H, 4 * samples)
    return Bags.apply(table.view(B * table.shape[1] * H, D), rows, shares).view(B, N, H * D).to(value.dtype)


def bordered(tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, S, C) of levels joined → (B, T, C), each level with a border of zeros."""
    levels = tokens.split([h * w for h, w in shapes], 1)
    around = (0, 0, *4 * (BORDER,))
    return torch.cat(
        [F.pad(level.unflatten(1, shape), around).flatten(1, 2) for level, shape in zip(levels, shapes, strict=True)], 1
    )


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
            parts = shares.flatten().index_select(0, order)
            of_table = F.embedding_bag(
                order // rows.shape[1], gradients[0], starts, per_sample_weights=parts, mode="sum"
            )
        if ctx.needs_input_grad[2]:
            of_shares = products(gradients[0], table, rows)
        return of_table, None, of_shares


def products(left: Tensor, right: Tensor, rows: Tensor) -> Tensor:
    """left (M, D), right (T, D), rows (M, R) of `right` → (M, R): what a row of `left` times its rows of `right` is."""
    starts = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=rows.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR", UserWarning)  # of what it is, a beta feature of torch
        wanted = torch.sparse_csr_tensor(
            starts, rows.flatten(), left.new_zeros(rows.numel()), (len(left), len(right)), check_invariants=False
        )
    return torch.sparse.sampled_addmm(wanted, left.contiguous(), right.t(), beta=0).values().view(rows.shape)


class Corners(Function):
    """The rows of the table that samples read, and the share of each, from where the samples lie.

    locations (B, N, H, L, P, 2), weights (B, N, H, L, P), (h, w) of each level, T rows of a bordered image → rows and
    shares, both (B·N·H, 4, L·P). The four corners are left and right of the upper line of cells, then of the lower.
    Both passes are written by hand, since autograd would keep a dozen tensors of that size.
    """

    @staticmethod
    def forward(
        ctx: Any, locations: Tensor, weights: Tensor, shapes: Sequence[tuple[int, int]], rows_an_image: int
    ) -> tuple[Tensor, Tensor]:
        B, N, H, L, P = weights.shape
        each = P if L > 1 else 1  # of one level one number does for all
        heights, widths = locations.new_tensor(shapes).repeat_interleave(each, 0).unbind(1)  # (L·P,) or (1,)
        x, y = locations.reshape(B * N * H, L * P, 2).unbind(-1)
        left, x = along(x, widths)
        upper, y = along(y, heights)

        weights = weights.reshape(B * N * H, L * P)
        lower = y * weights
        columns, lines = torch.stack([1 - x, x], 1), torch.stack([weights - lower, lower], 1)  # (B·N·H, 2, L·P)
        shares = (lines[:, :, None] * columns[:, None]).flatten(1, 2)
        ctx.save_for_backward(x, y, weights, widths, heights)
        ctx.shape = locations.shape

        kind = torch.int32 if B * rows_an_image * H < 2**31 - 2**24 else torch.int64
        pitch = widths.to(kind) + 2 * BORDER  # cells in a line of a bordered level
        sizes = [(h + 2 * BORDER) * (w + 2 * BORDER) for h, w in shapes]
        origins = torch.tensor([0, *sizes[:-1]]).cumsum(0).to(kind).repeat_interleave(each) + BORDER * (pitch + 1)
        cells = upper.to(kind).mul_(pitch).add_(left.to(kind)).add_(origins).mul_(H)  # a cell has a row a head
        heads = torch.arange(B)[:, None, None] * (rows_an_image * H) + torch.arange(H)  # (B, 1, H)
        cells.view(B, N, H, L * P).add_(heads.to(kind)[..., None])
        corners = H * torch.stack([torch.zeros_like(pitch), torch.ones_like(pitch), pitch, pitch + 1])  # (4, L·P)
        rows = cells[:, None] + corners
        ctx.mark_non_differentiable(rows)
        return rows, shares

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None, None]:
        x, y, weights, widths, heights = ctx.saved_tensors
        upper_left, upper_right, lower_left, lower_right = gradients[1].unbind(1)
        upper, lower = upper_left.lerp(upper_right, x), lower_left.lerp(lower_right, x)
        of_x = (upper_right - upper_left).lerp(lower_right - lower_left, y).mul_(weights).mul_(widths)
        of_y = (lower - upper).mul_(weights).mul_(heights)
        of_locations, of_weights = torch.stack([of_x, of_y], -1), upper.lerp(lower, y)
        return of_locations.view(ctx.shape), of_weights.view(ctx.shape[:-1]), None, None


def along(places: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """One axis, places in [0, 1] of maps of `sizes` cells → the cell before each, and the way from there to the next.

    Cells lie from -BORDER to `sizes`, the way between their centres is 0 to 1. A place that is no finite number is in
    the border and its way is NaN: so is all that is made of it, but no cell learns from it.
    """
    ways = torch.addcmul(places.new_tensor(-0.5), places, sizes)
    lost = None if ways.sum().isfinite() else ~ways.isfinite()
    if lost is not None:
        ways.masked_fill_(lost, -BORDER)
    ways.clamp_(min=places.new_tensor(float(-BORDER)), max=sizes)
    cells = ways.floor()
    ways.sub_(cells)
    if lost is not None:
        ways.masked_fill_(lost, torch.nan)
    return cells, ways
