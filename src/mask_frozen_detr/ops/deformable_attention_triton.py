"""Deformable attention (Zhu et al., 2020, equation 3) in two Triton kernels, for `deformable_attention` to call.

Sampled values are never stored: a program keeps a block of queries of one head in registers and adds up what each
point reads; backward reads the points again. So only the inputs are saved, and beside the gradients there is but one
float32 buffer, the size of `value`. Sums are float32 whatever the inputs are. The image's size is no compile-time
constant: batches of ever new shapes run the kernels that are there.

Letters: B maps, S = Σ h_l·w_l value tokens, N queries, H heads, D head width, L levels, P points.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_HEAD_WIDTH = 64
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Queries × padded head width of a program, and its warps. Forward: 8 values a thread, a 16-byte load in half precision.
# Backward: 4, a 16-byte atomic add in float32; with 8 the values would go through shared memory in between.
FORWARD, BACKWARD = (1024, 4), (512, 4)


@triton.jit
def _point(locations, weights, point, in_block, height, width):
    """x, y of a block's points in cells of the map, 0 = the first cell's centre, and their weights."""
    x = tl.load(locations + 2 * point, mask=in_block, other=0.0).to(tl.float32) * width - 0.5
    y = tl.load(locations + 2 * point + 1, mask=in_block, other=0.0).to(tl.float32) * height - 0.5
    return x, y, tl.load(weights + point, mask=in_block, other=0.0).to(tl.float32)


@triton.jit
def _along(x, size):
    """One axis: the cell before each position, as a float, and how far it is from there to the next cell's centre.

    From two cells beyond the border on everything reads zero; so far, and no farther, a float goes into an int safely.
    What is no finite number is put there, and its way is NaN: so is all that is made of it, but no cell learns from
    it. Maximum and minimum would do for neither: on a GPU they drop NaN.
    """
    finite = tl.abs(x) < float("inf")  # False for NaN
    near = tl.minimum(tl.maximum(tl.where(finite, x, -2.0), -2.0), size + 1.0)
    cell = tl.floor(near)
    return cell, tl.where(finite, near - cell, float("nan"))


@triton.jit
def _cells(x, y, start, height, width, in_block):
    """The four cells around x, y: tokens of the two left ones, whether each is on the map, and x, y between them."""
    left, fx = _along(x, width)
    top, fy = _along(y, height)
    on_left, on_right = (left >= 0) & (left < width) & in_block, (left >= -1) & (left < width - 1) & in_block
    on_top, on_bottom = (top >= 0) & (top < height), (top >= -1) & (top < height - 1)
    upper = start + top.to(tl.int32) * width.to(tl.int32) + left.to(tl.int32)
    return (
        upper,
        upper + width.to(tl.int32),
        on_left & on_top,
        on_right & on_top,
        on_left & on_bottom,
        on_right & on_bottom,
        fx,
        fy,
    )


@triton.jit
def _read(base, tokens, on_map, d, row: tl.constexpr, D: tl.constexpr):
    """(BLOCK, padded D) float32 values of tokens (BLOCK,); zero off the map."""
    at = tokens[:, None] * row + d[None, :]
    return tl.load(base + at, mask=on_map[:, None] & (d < D)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _add(base, tokens, on_map, d, values, row: tl.constexpr, D: tl.constexpr):
    at = tokens[:, None] * row + d[None, :]
    tl.atomic_add(base + at, values, mask=on_map[:, None] & (d < D)[None, :], sem="relaxed")


@triton.jit(do_not_specialize=["S", "N", "blocks"])
def _forward(
    value,
    levels,
    locations,
    weights,
    output,
    S,
    N,
    blocks,
    H: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED: tl.constexpr,
):
    program = tl.program_id(0)  # one axis: the others end at 65535, fewer than maps × heads can be
    head, block, b = program % H, program // H % blocks, (program // H // blocks).to(tl.int64)
    query, d = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)
    in_block = query < N
    value += b * S * (H * D) + head * D
    locations += b * N * (H * L * P * 2)
    weights += b * N * (H * L * P)
    total = tl.zeros((BLOCK, PADDED), tl.float32)
    for level in range(L):
        height, width = tl.load(levels + 3 * level).to(tl.float32), tl.load(levels + 3 * level + 1).to(tl.float32)
        start = tl.load(levels + 3 * level + 2)
        for p in tl.static_range(P):
            point = (query * H + head) * (L * P) + level * P + p
            x, y, weight = _point(locations, weights, point, in_block, height, width)
            upper, lower, on_00, on_01, on_10, on_11, fx, fy = _cells(x, y, start, height, width, in_block)
            total += _read(value, upper, on_00, d, H * D, D) * (weight * (1 - fx) * (1 - fy))[:, None]
            total += _read(value, upper + 1, on_01, d, H * D, D) * (weight * fx * (1 - fy))[:, None]
            total += _read(value, lower, on_10, d, H * D, D) * (weight * (1 - fx) * fy)[:, None]
            total += _read(value, lower + 1, on_11, d, H * D, D) * (weight * fx * fy)[:, None]
    output += b * N * (H * D) + head * D
    at = query[:, None] * (H * D) + d[None, :]
    tl.store(output + at, total.to(output.dtype.element_ty), mask=in_block[:, None] & (d < D)[None, :])


@triton.jit(do_not_specialize=["S", "N", "blocks"])
def _backward(
    grad,
    value,
    levels,
    locations,
    weights,
    grad_value,
    grad_locations,
    grad_weights,
    S,
    N,
    blocks,
    H: tl.constexpr,
    D: tl.constexpr,
    L: tl.constexpr,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED: tl.constexpr,
):
    program = tl.program_id(0)
    head, block, b = program % H, program // H % blocks, (program // H // blocks).to(tl.int64)
    query, d = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, PADDED)
    in_block = query < N
    value += b * S * (H * D) + head * D
    grad_value += b * S * (H * D) + head * D
    locations += b * N * (H * L * P * 2)
    grad_locations += b * N * (H * L * P * 2)
    weights += b * N * (H * L * P)
    grad_weights += b * N * (H * L * P)
    g = _read(grad + b * N * (H * D) + head * D, query, in_block, d, H * D, D)
    for level in range(L):
        height, width = tl.load(levels + 3 * level).to(tl.float32), tl.load(levels + 3 * level + 1).to(tl.float32)
        start = tl.load(levels + 3 * level + 2)
        for p in tl.static_range(P):
            point = (query * H + head) * (L * P) + level * P + p
            x, y, weight = _point(locations, weights, point, in_block, height, width)
            upper, lower, on_00, on_01, on_10, on_11, fx, fy = _cells(x, y, start, height, width, in_block)
            v_00 = _read(value, upper, on_00, d, H * D, D)
            v_01 = _read(value, upper + 1, on_01, d, H * D, D)
            v_10 = _read(value, lower, on_10, d, H * D, D)
            v_11 = _read(value, lower + 1, on_11, d, H * D, D)
            # Bilinear: its value, and its slopes along x and y.
            slope_top, slope_bottom = v_01 - v_00, v_11 - v_10
            top, bottom = v_00 + fx[:, None] * slope_top, v_10 + fx[:, None] * slope_bottom
            slope_x = slope_top + fy[:, None] * (slope_bottom - slope_top)
            slope_y = bottom - top
            g_weight = tl.sum(g * (top + fy[:, None] * slope_y), 1)
            g_x = tl.sum(g * slope_x, 1) * weight * width
            g_y = tl.sum(g * slope_y, 1) * weight * height
            tl.store(grad_weights + point, g_weight.to(grad_weights.dtype.element_ty), mask=in_block)
            tl.store(grad_locations + 2 * point, g_x.to(grad_locations.dtype.element_ty), mask=in_block)
            tl.store(grad_locations + 2 * point + 1, g_y.to(grad_locations.dtype.element_ty), mask=in_block)
            # Other queries read the same cells: only here do programs meet.
            _add(grad_value, upper, on_00, d, g * (weight * (1 - fx) * (1 - fy))[:, None], H * D, D)
            _add(grad_value, upper + 1, on_01, d, g * (weight * fx * (1 - fy))[:, None], H * D, D)
            _add(grad_value, lower, on_10, d, g * (weight * (1 - fx) * fy)[:, None], H * D, D)
            _add(grad_value, lower + 1, on_11, d, g * (weight * fx * fy)[:, None], H * D, D)


def misfit(value: Tensor, locations: Tensor) -> str | None:
    """Why the kernels do not take these tensors, None where they do.

    They take float32 and half precision, heads up to 64 wide, and maps that 31 bits count.
    """
    _, S, H, D = value.shape
    _, N, _, L, P, _ = locations.shape
    for dtype in (value.dtype, locations.dtype):
        if dtype not in DTYPES:
            return f"found {dtype}, expected float32, bfloat16 or float16"
    if D > MAX_HEAD_WIDTH:
        return f"found heads {D} wide, expected at most {MAX_HEAD_WIDTH}"
    if max(S * H * D, N * H * D, N * H * L * P * 2) >= 1 << 31:
        return "found a map of 2³¹ numbers or more"
    return None


def deformable_attention_triton(
    value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """`deformable_attention` in kernels: of tensors on one GPU without `misfit` (or in Triton's interpreter)."""
    return _attend(value, [side for shape in shapes for side in shape], locations, weights)


# Custom operators, so that torch.compile, its fake tensors and dispatch modes take them as they take torch's own.
@torch.library.custom_op("mask_frozen_detr::deformable_attention", mutates_args=())
def _attend(value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
    B, S, H, D = value.shape
    _, N, _, L, P, _ = locations.shape
    output = value.new_empty(B, N, H * D)
    if output.numel():
        grid, sizes = _launch(B, N, H, D, *FORWARD)
        with torch.cuda.device_of(value):
            _forward[grid](
                value.contiguous(),
                _level_table(tuple(shapes), value.device),
                locations.contiguous(),
                weights.contiguous(),
                output,
                *(S, N, sizes.pop("blocks")),
                **{"H": H, "D": D, "L": L, "P": P},
                **sizes,
            )
    return output


@_attend.register_fake
def _(value, shapes, locations, weights):
    B, _, H, D = value.shape
    return value.new_empty(B, locations.shape[1], H * D)


@torch.library.custom_op("mask_frozen_detr::deformable_attention_backward", mutates_args=())
def _gradients(
    grad: Tensor, value: Tensor, shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B, S, H, D = value.shape
    _, N, _, L, P, _ = locations.shape
    grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
    grad_locations = torch.empty(locations.shape, dtype=locations.dtype, device=value.device)
    grad_weights = torch.empty(weights.shape, dtype=weights.dtype, device=value.device)
    if grad.numel():
        grid, sizes = _launch(B, N, H, D, *BACKWARD)
        with torch.cuda.device_of(value):
            _backward[grid](
                grad.contiguous(),
                value.contiguous(),
                _level_table(tuple(shapes), value.device),
                locations.contiguous(),
                weights.contiguous(),
                grad_value,
                grad_locations,
                grad_weights,
                *(S, N, sizes.pop("blocks")),
                **{"H": H, "D": D, "L": L, "P": P},
                **sizes,
            )
    return grad_value.to(value.dtype), grad_locations, grad_weights


@_gradients.register_fake
def _(grad, value, shapes, locations, weights):
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (value, locations, weights))


def _save(ctx, inputs, output):
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _differentiate(ctx, grad):
    value, locations, weights = ctx.saved_tensors
    grad_value, grad_locations, grad_weights = _gradients(grad, value, ctx.shapes, locations, weights)
    return grad_value, None, grad_locations, grad_weights


_attend.register_autograd(_differentiate, setup_context=_save)


def _launch(B: int, N: int, H: int, D: int, tile: int, warps: int) -> tuple[tuple[int], dict[str, int]]:
    """Programs, and what shapes them."""
    padded = triton.next_power_of_2(D)
    block = tile // padded
    blocks = triton.cdiv(N, block)
    return (B * blocks * H,), {"blocks": blocks, "BLOCK": block, "PADDED": padded, "num_warps": warps}


@lru_cache(maxsize=256)
def _level_table(shapes: tuple[int, ...], device: torch.device) -> Tensor:
    """(L, 3) int32: h_l, w_l and the level's first token. Kept: a copy to the GPU would wait for it at every call."""
    rows, start = [], 0
    for h, w in zip(shapes[::2], shapes[1::2], strict=True):
        rows.append((h, w, start))
        start += h * w
    return torch.tensor(rows, dtype=torch.int32, device=device)
