"""Deformable attention by the Triton kernels against the reference in float64: cases, and what came of each.

Triton decides when it is imported whether it interprets: on a CPU this file is run as a program, in a process of its
own with TRITON_INTERPRET=1, and prints what `run_kernels` gives.
"""

import json
import math
import warnings
from typing import Any

import torch

from mask_frozen_detr.ops.deformable_attention import deformable_attention_reference

LEVELS = ((5, 7), (3, 4), (1, 2))
CASES = {
    # what is special: maps, queries, head width, levels, points, value, weights
    "one level": (2, 5, 16, LEVELS[:1], 2, "float32", "float32"),
    "three levels": (1, 5, 16, LEVELS, 2, "float32", "float32"),
    "narrow heads": (1, 5, 8, LEVELS[:1], 1, "float32", "float32"),
    "a width that is no power of two": (1, 5, 20, LEVELS[:2], 1, "float32", "float32"),
    "odd width and points": (1, 5, 3, LEVELS[:1], 3, "float32", "float32"),
    "the widest heads, several blocks of queries": (1, 20, 64, LEVELS[1:], 1, "float32", "float32"),
    "bfloat16": (1, 5, 16, LEVELS[:1], 1, "bfloat16", "bfloat16"),
    "bfloat16, no power of two": (1, 5, 20, LEVELS[:1], 1, "bfloat16", "bfloat16"),
    "float16": (1, 5, 64, LEVELS[:1], 1, "float16", "float16"),
    "autocast: float32 weights beside bfloat16 values": (1, 5, 8, LEVELS[:1], 1, "bfloat16", "float32"),
}
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1e-2}  # of the norm
HEADS = 2


def draw(maps, queries, width, levels, points, value_type="float32", weight_type="float32", device="cpu"):
    """value, locations and weights of a call."""
    generator = torch.Generator().manual_seed(0)
    tokens, places = sum(h * w for h, w in levels), (maps, queries, HEADS, len(levels), points)
    value = torch.randn(maps, tokens, HEADS, width, generator=generator).to(getattr(torch, value_type))
    locations = 1.6 * torch.rand(*places, 2, generator=generator) - 0.3  # many of them off the map
    locations[:, 0] = torch.tensor([-3e9, 0.5])  # far beyond what an integer holds
    locations[:, 1] = torch.tensor([0.0, 1.0])  # on the border
    weights = torch.randn(places, generator=generator).to(getattr(torch, weight_type))
    return [tensor.to(device) for tensor in (value, locations, weights)]


def differences(result, inputs, expected, exact_inputs, grad) -> dict[str, float]:
    """Relative to the norm of what is expected, of the output and of each gradient."""
    result.backward(grad)
    expected.backward(grad.double())
    pairs = {"output": (result.detach(), expected.detach())}
    for name, tensor, exact in zip(("value", "locations", "weights"), inputs, exact_inputs, strict=True):
        assert tensor.grad.dtype == tensor.dtype
        pairs[name] = (tensor.grad, exact.grad)
    return {name: ((ours.double() - exact).norm() / exact.norm()).item() for name, (ours, exact) in pairs.items()}


# Where what is no number stands, in inputs that no two of them share a query and a head of: x, y, weight, value.
LOST_IN = ((1, (0, 2, 0, 1, 1, 0)), (1, (0, 1, 0, 1, 1, 1)), (2, (0, 3, 1, 1, 1)), (0, (0, 17, 1, 2)))
LOST = {str(bad): bad for bad in (math.nan, math.inf, -math.inf)}


def spread(bad: float, device: str) -> list[dict]:
    """How kernels and reference spread it, of the output and each gradient."""
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    def outcome(attend, device):
        inputs = draw(1, 4, 3, LEVELS[:2], 2, device=device)
        inputs[1][:, 2] = torch.rand(inputs[1][:, 2].shape, generator=torch.Generator().manual_seed(2)).to(device)
        for which, index in LOST_IN:
            inputs[which][index] = bad
        for tensor in inputs:
            tensor.requires_grad_()
        read = attend(inputs[0], LEVELS[:2], *inputs[1:])
        return [tensor.cpu() for tensor in (read.detach(), *torch.autograd.grad(read, inputs, torch.ones_like(read)))]

    with warnings.catch_warnings(action="ignore"):  # numpy's, of what is no number
        # On a GPU grid_sample gives some of these gradients as 0: the CPU's is the judge.
        pairs = zip(
            outcome(deformable_attention_triton, device), outcome(deformable_attention_reference, "cpu"), strict=True
        )
    return [
        {
            "lost": int((~theirs.isfinite()).sum()),
            "kept": int(theirs.isfinite().sum()),
            # infinity less infinity is NaN: by another order of operations one stands for the other
            "same": torch.equal(ours.isfinite(), theirs.isfinite())
            and (math.isinf(bad) or torch.equal(ours.isnan(), theirs.isnan())),
            "close": torch.allclose(ours[ours.isfinite()], theirs[theirs.isfinite()], atol=1e-4),
        }
        for ours, theirs in pairs
    ]


def run_kernels(device: str) -> dict:
    """What the kernels make of all cases on a GPU, or on the CPU in Triton's interpreter."""
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    found: dict[str, Any] = {}
    for name, case in CASES.items():
        levels = case[3]
        inputs = [tensor.requires_grad_() for tensor in draw(*case, device)]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        result = deformable_attention_triton(inputs[0], levels, *inputs[1:])
        assert result.dtype == inputs[0].dtype
        expected = deformable_attention_reference(exact[0], levels, *exact[1:])
        grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(result)
        found[name] = differences(result, inputs, expected, exact, grad)

    # inputs and gradient as views: columns of something larger, one number for all
    levels = LEVELS[1:2]
    value, locations, weights = draw(1, 5, 8, levels, 2, device=device)
    inputs = [torch.stack([tensor, -tensor], -1)[..., 0].requires_grad_() for tensor in (value, locations, weights)]
    assert not any(tensor.is_contiguous() for tensor in inputs)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    result = deformable_attention_triton(inputs[0], levels, *inputs[1:])
    expected = deformable_attention_reference(exact[0], levels, *exact[1:])
    found["views"] = differences(result, inputs, expected, exact, torch.ones((), device=device).expand(result.shape))

    found["lost"] = {name: spread(bad, device) for name, bad in LOST.items()}

    found["empty"] = []
    for maps, queries in ((0, 5), (2, 0)):
        inputs = [tensor[:maps] for tensor in draw(2, 5, 8, levels, 2, device=device)]
        inputs = [inputs[0].requires_grad_(), *(tensor[:, :queries].requires_grad_() for tensor in inputs[1:])]
        result = deformable_attention_triton(inputs[0], levels, *inputs[1:])
        result.sum().backward()
        grads = [tensor.grad for tensor in inputs]
        same = all(grad.shape == tensor.shape and not grad.any() for grad, tensor in zip(grads, inputs, strict=True))
        found["empty"].append([list(result.shape), same])
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(run_kernels("cpu")))
