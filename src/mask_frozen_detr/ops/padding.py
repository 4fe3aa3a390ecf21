"""Padded batches: which cells of a map belong to the image, and what stands in the others.

Images lie at the top left of their batch; masks are rectangles of ones. Letters: B images, d width, h × w cells.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def repeat_edges(maps: Tensor, valid: Tensor) -> Tensor:
    """Fill the padding of (B, d, h, w) maps with each image's last valid row and column; valid: (B, h, w)."""
    h, w = maps.shape[2:]
    rows = torch.arange(h, device=maps.device).minimum(valid[:, :, 0].sum(1, keepdim=True) - 1)  # (B, h)
    columns = torch.arange(w, device=maps.device).minimum(valid[:, 0].sum(1, keepdim=True) - 1)  # (B, w)
    images = torch.arange(maps.shape[0], device=maps.device)[:, None, None]
    return maps.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


def upsampled_cells(valid: Tensor, factor: float, shape: Sequence[int]) -> Tensor:
    """`valid` (B, h, w) of a map, for the map of `shape` that F.interpolate makes of it."""
    rows, columns = (
        torch.arange(size, device=valid.device) < (count * factor).floor()[:, None]
        for size, count in zip(shape, (valid[:, :, 0].sum(1), valid[:, 0].sum(1)), strict=True)
    )
    return rows[:, :, None] & columns[:, None]


def extents(mask: Tensor) -> Tensor:
    """(B, h, w) rectangles of ones at the top left → (B, 2): their widths and heights."""
    return torch.stack([mask[:, 0].sum(1), mask[:, :, 0].sum(1)], -1)


def valid_cells(pixel_mask: Tensor, shape: Sequence[int], stride: int) -> Tensor:
    """Which cells of an h × w map start inside the image: (B, H, W) pixel mask → (B, h, w) bool.

    By the stride, not by H / h: where the padded input is no whole number of cells, the latter would give an image
    another number of cells than it has alone.
    """
    h, w = shape
    rows = (torch.arange(h, device=pixel_mask.device) * stride).clamp(max=pixel_mask.shape[1] - 1)
    columns = (torch.arange(w, device=pixel_mask.device) * stride).clamp(max=pixel_mask.shape[2] - 1)
    return pixel_mask[:, rows][:, :, columns].bool()


def masked_group_norm(maps: Tensor, valid: Tensor, norm: nn.GroupNorm) -> Tensor:
    """`norm` of (B, d, h, w) maps with mean and variance over valid (B, h, w) cells only; zero elsewhere."""
    B, d, h, w = maps.shape
    at_least = torch.promote_types(maps.dtype, torch.float32)
    groups = maps.to(at_least).view(B, norm.num_groups, -1, h, w)
    inside = valid[:, None, None].to(groups.dtype)
    count = inside.sum((2, 3, 4), keepdim=True) * groups.shape[2]
    mean = (groups * inside).sum((2, 3, 4), keepdim=True) / count
    centred = (groups - mean) * inside
    variance = centred.square().sum((2, 3, 4), keepdim=True) / count
    normed = (centred * (variance + norm.eps).rsqrt()).view(B, d, h, w).to(maps.dtype)
    return (normed * norm.weight[:, None, None] + norm.bias[:, None, None]) * valid[:, None]
