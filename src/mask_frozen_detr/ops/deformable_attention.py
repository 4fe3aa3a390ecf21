"""Deformable attention (Zhu et al., 2020, equation 3): the one function all of the project's modules call.

On an NVIDIA GPU it runs in Triton kernels (`deformable_attention_triton`), on a CPU as an embedding bag
(`deformable_attention_bags`), elsewhere in torch's `grid_sample`, which is also what the others are tested against.
MASK_FROZEN_DETR_ATTENTION=reference keeps the others out.
Letters: B maps, S = Σ h_l·w_l value tokens, N queries, H heads, D head width, L levels, P points.
"""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.ops.deformable_attention_bags import deformable_attention_bags

Choice = Literal["auto", "reference"]
VARIABLE = "MASK_FROZEN_DETR_ATTENTION"


def deformable_attention(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Weighted sum of values sampled at fractional locations.

    value: (B, S, H, D), the levels flattened row by row and joined, level 0 first.
    shapes: (h_l, w_l) of each level.
    locations: (B, N, H, L, P, 2), x and y in [0, 1] of each level's extent (`align_corners=False`: 0 is the
        outer edge of the first cell). Bilinear; zero outside. Best float32, whatever `value` is.
    weights: (B, N, H, L, P), usually summing to 1 over (L, P).

    Returns (B, N, H·D) of `value`'s type; half precision is summed in float32.
    """
    attend = deformable_attention_reference
    if _choice == "auto" and value.is_cuda:
        attend = _kernels_for(value, locations) or attend
    elif _choice == "auto" and value.device.type == "cpu" and not torch.compiler.is_compiling():
        attend = deformable_attention_bags
    return attend(value, shapes, locations, weights)


def deformable_attention_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` in torch's own operators: any device, any floating type."""
    B, _, H, D = value.shape
    N, P = locations.shape[1], locations.shape[4]
    # Half-precision locations would be off by a good part of a cell.
    precision = torch.promote_types(value.dtype, torch.float32)
    grids = 2 * locations.to(precision) - 1
    output = torch.zeros((), dtype=precision, device=value.device)
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
    before, _choice = _choice, _checked(choice, "attention_choice")
    try:
        yield
    finally:
        _choice = before


def kernels_run(device: torch.device) -> bool:
    """Whether `deformable_attention` runs in kernels on a device. Compiles one to see: seconds, the first time."""
    if _choice == "reference" or device.type != "cuda":
        return False
    return _kernels_on(torch.cuda.current_device() if device.index is None else device.index)


def _kernels_for(value: Tensor, locations: Tensor) -> Callable[..., Tensor] | None:
    """The kernels, where they take these tensors."""
    if torch.compiler.is_exporting() or torch.are_deterministic_algorithms_enabled():  # they add up in any order
        return None
    if not _kernels_on(value.get_device()):
        return None
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton, fits

    return deformable_attention_triton if fits(value, locations) else None


@torch.compiler.assume_constant_result  # torch.compile asks, and does not trace the answer
def _kernels_on(index: int) -> bool:
    return _try_kernels(index)


@lru_cache(maxsize=64)
def _try_kernels(index: int) -> bool:
    """Whether a GPU and what is installed run the kernels: found out once, by running them on one point."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(index) < (8, 0):
        return False  # Triton supports no NVIDIA GPU before Ampere; AMD's have not been tried
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    try:
        with torch.no_grad():
            value, weights = torch.ones(1, 1, 1, 16, device=index), torch.ones(1, 1, 1, 1, 1, device=index)
            centre = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=index)
            read = deformable_attention_triton(value, [(1, 1)], centre, weights)
            return bool((read == 1).all())
    except Exception as error:  # Triton raises what it likes: no C compiler, no writable cache, an unknown card …
        warnings.warn(
            f"deformable attention runs without its Triton kernels, several times slower: {type(error).__name__}: "
            f"{error}",
            stacklevel=2,
        )
        return False


def _checked(choice: str, source: str) -> Choice:
    if choice not in get_args(Choice):
        raise UserError(f"{source}: found {choice!r}, expected one of {', '.join(get_args(Choice))}")
    return choice  # type: ignore[return-value]


_choice: Choice = _checked(os.environ.get(VARIABLE, "auto"), VARIABLE)
