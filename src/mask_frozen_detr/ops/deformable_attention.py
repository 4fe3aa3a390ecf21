"""Deformable attention (Zhu et al., 2020, equation 3): the one function all of the project's modules call.

On an NVIDIA GPU it runs in Triton kernels (`deformable_attention_triton`), on a CPU as an embedding bag
(`deformable_attention_bags`), elsewhere in torch's `grid_sample`, which is also what the others are tested against.
MASK_FROZEN_DETR_ATTENTION=reference keeps the others out.
Letters: B maps, S = Σ h_l·w_l value tokens, N queries, H heads, D head width, L levels, P points.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_frozen_detr.errors import check_choice
from mask_frozen_detr.ops.deformable_attention_bags import deformable_attention_bags
from mask_frozen_detr.ops.kernel_support import kernel_fault, warn_once

Choice = Literal["auto", "reference"]
Attend = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]
VARIABLE = "MASK_FROZEN_DETR_ATTENTION"


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values sampled at fractional locations.

    value: (B, S, H, D), the levels flattened row by row and joined, level 0 first.
    shapes: (h_l, w_l) of each level.
    locations: (B, N, H, L, P, 2), x and y in [0, 1] of each level's extent (`align_corners=False`: 0 is the
        outer edge of the first cell). Bilinear; zero outside; NaN where a location is no finite number. Best float32,
        whatever `value` is.
    weights: (B, N, H, L, P), usually summing to 1 over (L, P).

    Returns (B, N, H·D) of `value`'s type; half precision is summed in float32.
    """
    return implementation(value, locations)(value, shapes, locations, weights)


def implementation(value: Tensor, locations: Tensor) -> Attend:
    """The function that `deformable_attention` runs for these tensors, by the device that they are on."""
    device = value.device
    if _choice == "reference" or torch.compiler.is_exporting():
        return deformable_attention_reference
    if device.type == "cpu" and not torch.compiler.is_compiling():
        return deformable_attention_bags
    if device.type == "cuda" and not torch.are_deterministic_algorithms_enabled() and kernels_run(device):
        # Kernels add up in any order: they are not for who wants the same bits each time.
        from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton, misfit

        reason = misfit(value, locations)
        if reason is None:
            return deformable_attention_triton
        warn_once(reason)
    return deformable_attention_reference


def kernels_run(device: torch.device) -> bool:
    """Whether `deformable_attention` runs in kernels on a device. Compiles one to see: seconds, the first time."""
    if _choice == "reference" or device.type != "cuda":
        return False
    return kernel_fault(torch.cuda.current_device() if device.index is None else device.index) is None


def deformable_attention_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` in torch's own operators: any device, any floating type."""
    B, _, H, D = value.shape
    N, P = locations.shape[1], locations.shape[4]
    # Half-precision locations would be off by a good part of a cell.
    precision = torch.promote_types(value.dtype, torch.float32)
    locations = locations.to(precision)
    grids = 2 * locations - 1
    # Zero; NaN where a location is no finite number, for which grid_sample gives NaN on a CPU, but zero on a GPU.
    output = 0 * locations.detach().sum((3, 4, 5)).transpose(1, 2).reshape(B * H, 1, N)
    levels = value.split([h * w for h, w in shapes], dim=1)
    for level, ((h, w), level_value) in enumerate(zip(shapes, levels, strict=True)):
        maps = level_value.permute(0, 2, 3, 1).reshape(B * H, D, h, w).to(precision)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(B * H, N, P, 2)
        sampled = F.grid_sample(maps, grid, padding_mode="zeros", align_corners=False)
        level_weights = weights[:, :, :, level].transpose(1, 2).reshape(B * H, 1, N, P)
        output = output + (sampled * level_weights).sum(-1)  # (B·H, D, N)
    return output.view(B, H * D, N).transpose(1, 2).contiguous().to(value.dtype)


@contextmanager
def attention_choice(choice: Choice) -> Iterator[None]:
    """Within it, "reference" keeps kernels and bags out, "auto" takes them where they run and pay."""
    global _choice
    check_choice("attention_choice", choice, get_args(Choice))
    before, _choice = _choice, choice
    try:
        yield
    finally:
        _choice = before


_choice = cast(Choice, os.environ.get(VARIABLE, "auto"))
check_choice(VARIABLE, _choice, get_args(Choice))
