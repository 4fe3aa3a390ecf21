"""Deformable attention by itself: Triton kernels or embedding bags against the `grid_sample` reference.

Parity, speed and memory.

Letters: B maps, S tokens, N queries, H heads, D head width, L levels, P points.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Timing, free_memory, interleaved, peak_bytes, rounded
from benchmarks.sizes import Sizes
from mask_frozen_detr.ops.deformable_attention import (
    attention_choice,
    deformable_attention,
    deformable_attention_reference,
    kernels_run,
)
from mask_frozen_detr.ops.deformable_attention_bags import deformable_attention_bags
from mask_frozen_detr.ops.sampling import level_sizes, reference_points, sampling_locations

HEADS, POINTS = 8, 4
STRIDES = (8, 16, 32, 64)
SPREAD = 2.0  # cells that points lie from their query, one standard deviation
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # of the norm
Shapes = list[tuple[int, int]]
Attend = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One call."""

    name: str
    maps: int
    queries: int
    width: int  # D
    shapes: Shapes
    dtype: torch.dtype

    def draw(self, device: torch.device, seed: int = 0) -> list[Tensor]:
        """value, float32 locations, weights: points around each query's own place, some beyond the map."""
        generator = torch.Generator(device).manual_seed(seed)
        tokens, levels = sum(h * w for h, w in self.shapes), len(self.shapes)
        value = torch.randn(self.maps, tokens, HEADS, self.width, generator=generator, device=device)
        cells = level_sizes(self.shapes, device)
        own = reference_points(self.shapes, cells).repeat(1, -(-self.queries // tokens), 1, 1)
        offsets = torch.randn(self.maps, self.queries, HEADS, levels, POINTS, 2, generator=generator, device=device)
        locations = sampling_locations(own[:, : self.queries], SPREAD * offsets, cells)
        weights = torch.randn(self.maps, self.queries, HEADS, levels * POINTS, generator=generator, device=device)
        weights = weights.softmax(-1).unflatten(-1, (levels, POINTS))
        return [value.to(self.dtype), locations, weights.to(self.dtype)]


def image_shapes(sizes: Sizes) -> Shapes:
    return [(-(-sizes.image[0] // stride), -(-sizes.image[1] // stride)) for stride in STRIDES]


def variants(device: torch.device) -> dict[str, Attend]:
    """What runs here: the reference; the kernels or the bags where they do."""
    found: dict[str, Attend] = {"reference": deformable_attention_reference}
    if device.type == "cpu":
        found["bags"] = deformable_attention_bags
    with attention_choice("auto"):
        if kernels_run(device):
            found["triton"] = attend_by_itself
    return found


def attend_by_itself(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As it runs where nobody chooses."""
    with attention_choice("auto"):
        return deformable_attention(value, shapes, locations, weights)


def gradients(case: Case, inputs: list[Tensor], attend: Attend, grad: Tensor | None = None) -> list[Tensor]:
    """Output, and gradients of value, locations and weights for the output's gradient `grad`, or ones."""
    for tensor in inputs:
        tensor.requires_grad_()
    output = attend(inputs[0], case.shapes, *inputs[1:])
    grad = torch.ones_like(output) if grad is None else grad.to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def parity(sizes: Sizes, device: torch.device) -> tuple[list[dict[str, Any]], list[str]]:
    """Relative errors against the reference in float64, and what lies beyond its tolerance."""
    shapes: Shapes = [(25, 42), (13, 21), (7, 11), (4, 6)]
    rows, failures = [], []
    if device.type == "cuda" and "triton" not in variants(device):
        failures.append("the kernels do not run on this GPU: a warning above says why, or Triton is not installed")
    for seed, (width, levels, dtype) in enumerate(
        [(32, 4, d) for d in TOLERANCE]
        + [(16, 1, d) for d in TOLERANCE]
        + [(20, 3, d) for d in TOLERANCE]
        # one and 64 wide: the ends of what the kernels take
        + [(64, 2, torch.bfloat16), (1, 1, torch.float32)]
    ):
        case = Case(f"{width} wide, {levels} levels", 2, sizes.parity_queries, width, shapes[:levels], dtype)
        inputs = case.draw(device, seed)
        grad = torch.randn(2, case.queries, HEADS * width, device=device).to(dtype)
        exact = gradients(case, [tensor.double() for tensor in inputs], deformable_attention_reference, grad.double())
        for name, attend in variants(device).items():
            found = gradients(case, [tensor.clone() for tensor in inputs], attend, grad)
            errors = [
                ((ours.double() - truth).norm() / truth.norm()).item() for ours, truth in zip(found, exact, strict=True)
            ]
            row = dict(
                zip(("output", "of value", "of locations", "of weights"), (rounded(e, 2) for e in errors), strict=True)
            )
            rows.append({"case": case.name, "type": str(dtype)[6:], "variant": name, **row})
            if not max(errors) < TOLERANCE[dtype]:  # NaN, too
                failures.append(f"{case.name}, {dtype}, {name}: errors {errors}, expected under {TOLERANCE[dtype]}")
    return rows, failures


def speed_cases(sizes: Sizes) -> list[Case]:
    """The two encoders as training runs them, and the detector's own, which is float32 always."""
    image, box = image_shapes(sizes), [(32, 32)]
    tokens, maps = sizes.attention_queries, sizes.attention_maps
    half = torch.bfloat16
    return [
        Case("image encoder, 4 levels", 2, tokens, 32, image, half),
        Case("image encoder, 4 levels", 2, tokens, 32, image, torch.float32),
        Case("box encoder, 32 × 32", maps, 1024, 16, box, half),
        Case("box encoder, 32 × 32", maps, 1024, 16, box, torch.float32),
    ]


def speed(sizes: Sizes, device: torch.device, until: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Milliseconds and bytes of forward (without gradients) and forward + backward, reference against kernels.

    Extra memory: what was allocated at the peak beside inputs, output and gradients, which every version needs.
    """
    rows, failures = [], []
    for case in speed_cases(sizes):
        inputs = case.draw(device)

        def forward(attend: Attend, case: Case = case, inputs: list[Tensor] = inputs) -> Any:
            with torch.no_grad():
                return attend(inputs[0], case.shapes, *inputs[1:])

        def both(attend: Attend, case: Case = case, inputs: list[Tensor] = inputs) -> Any:
            return gradients(case, inputs, attend)

        needed = case.maps * case.queries * HEADS * case.width * case.dtype.itemsize
        passes: dict[str, tuple[Callable[[Attend], Any], int]] = {
            "forward": (forward, needed),
            # the output's gradient too
            "forward + backward": (both, 2 * needed + sum(tensor.nbytes for tensor in inputs)),
        }
        for name, (work, returned) in passes.items():
            choices = variants(device)
            times = interleaved(
                {key: partial(work, attend) for key, attend in choices.items()}, device, sizes.rounds, until
            )
            row: dict[str, Any] = {
                "case": case.name,
                "maps": case.maps,
                "queries": case.queries,
                "type": str(case.dtype)[6:],
                "pass": name,
            }
            extra: dict[str, int | None] = {}
            for key, attend in choices.items():
                timing = times[key]
                if isinstance(timing, str):
                    failures.append(f"{case.name}, {key}, {name}: {timing}")
                    continue
                peak = peak_bytes(partial(work, attend), device)
                more = None if peak is None else max(0, peak - returned)
                extra[key] = more
                row[f"{key} ms"] = rounded(timing.median)
                row[f"{key} extra MiB"] = None if more is None else round(more / 2**20, 1)
                row["rounds"] = timing.rounds
            reference, (other, ours) = times["reference"], list(times.items())[-1]
            if other != "reference" and isinstance(reference, Timing) and isinstance(ours, Timing):
                row["speed-up"] = rounded(reference.median / ours.median)
                before, after = extra["reference"], extra[other]
                if before and after is not None:
                    row["share of memory"] = rounded(after / before, 2)
            rows.append(row)
        del inputs
        free_memory(device)
    return rows, failures


def tuning(sizes: Sizes, device: torch.device, until: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Milliseconds of the kernels for other tiles and warps than theirs."""
    if "triton" not in variants(device):
        return [], ["the kernels do not run here"]
    from mask_frozen_detr.ops import deformable_attention_triton as kernels

    rows, failures, left_out = [], [], 0
    before = kernels.FORWARD, kernels.BACKWARD
    try:
        for case in speed_cases(sizes):
            inputs = case.draw(device)
            for launch in [(tile, warps) for tile in (256, 512, 1024, 2048) for warps in (1, 2, 4, 8)]:
                if time.perf_counter() > until:  # each compiles kernels of its own: seconds that no round may save
                    left_out += 1
                    continue
                kernels.FORWARD = kernels.BACKWARD = launch

                def forward(case: Case = case, inputs: list[Tensor] = inputs) -> Any:
                    with torch.no_grad():
                        return attend_by_itself(inputs[0], case.shapes, *inputs[1:])

                def both(case: Case = case, inputs: list[Tensor] = inputs) -> Any:
                    return gradients(case, inputs, attend_by_itself)

                times = interleaved({"forward": forward, "forward + backward": both}, device, 3, until)
                failures += [f"{case.name}, {launch}: {found}" for found in times.values() if isinstance(found, str)]
                rows.append(
                    {"case": case.name, "type": str(case.dtype)[6:], "tile": launch[0], "warps": launch[1]}
                    | {f"{name} ms": rounded(t.median) for name, t in times.items() if isinstance(t, Timing)}
                )
    finally:
        kernels.FORWARD, kernels.BACKWARD = before
    if left_out:
        rows.append({"case": f"{left_out} more: left out, the time was over"})
    return rows, failures
