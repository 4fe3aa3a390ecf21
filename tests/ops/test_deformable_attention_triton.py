"""The Triton kernels against the reference in float64, in Triton's interpreter on the CPU, and who gets to run them.

Triton decides when it is imported whether it interprets: this file runs itself in a process of its own for that, and
the tests read what that found.
"""

import itertools
import json
import math
import os
import runpy
import subprocess
import sys
import warnings
from importlib.util import find_spec
from typing import Any, cast

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.ops import deformable_attention as attention
from mask_frozen_detr.ops.deformable_attention import (
    deformable_attention,
    deformable_attention_reference,
    implementation,
    kernels_run,
)

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed here")

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


def draw(maps, queries, width, levels, points, value_type="float32", weight_type="float32"):
    generator = torch.Generator().manual_seed(0)
    tokens, places = sum(h * w for h, w in levels), (maps, queries, HEADS, len(levels), points)
    value = torch.randn(maps, tokens, HEADS, width, generator=generator).to(getattr(torch, value_type))
    locations = 1.6 * torch.rand(*places, 2, generator=generator) - 0.3  # many of them off the map
    locations[:, 0] = torch.tensor([-3e9, 0.5])  # far beyond what an integer holds
    locations[:, 1] = torch.tensor([0.0, 1.0])  # on the border
    weights = torch.randn(places, generator=generator).to(getattr(torch, weight_type))
    return [value, locations, weights]


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


def spread(bad: float) -> list[dict]:
    """How kernels and reference spread it, of the output and each gradient."""
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    def outcome(attend):
        inputs = draw(1, 4, 3, LEVELS[:2], 2)
        inputs[1][:, 2] = torch.rand(inputs[1][:, 2].shape, generator=torch.Generator().manual_seed(2))
        for which, index in LOST_IN:
            inputs[which][index] = bad
        for tensor in inputs:
            tensor.requires_grad_()
        read = attend(inputs[0], LEVELS[:2], *inputs[1:])
        return [read.detach(), *torch.autograd.grad(read, inputs, torch.ones_like(read))]

    with warnings.catch_warnings(action="ignore"):  # numpy's, of what is no number
        pairs = zip(outcome(deformable_attention_triton), outcome(deformable_attention_reference), strict=True)
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


def run_in_the_interpreter() -> dict:
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, (maps, queries, width, levels, points, *types) in CASES.items():
        inputs = [tensor.requires_grad_() for tensor in draw(maps, queries, width, levels, points, *types)]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        result = deformable_attention_triton(inputs[0], levels, *inputs[1:])
        assert result.dtype == inputs[0].dtype
        expected = deformable_attention_reference(exact[0], levels, *exact[1:])
        grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(result.dtype)
        found[name] = differences(result, inputs, expected, exact, grad)

    # inputs and gradient as views: columns of something larger, one number for all
    levels = LEVELS[1:2]
    value, locations, weights = draw(1, 5, 8, levels, 2)
    inputs = [torch.stack([tensor, -tensor], -1)[..., 0].requires_grad_() for tensor in (value, locations, weights)]
    assert not any(tensor.is_contiguous() for tensor in inputs)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    result = deformable_attention_triton(inputs[0], levels, *inputs[1:])
    expected = deformable_attention_reference(exact[0], levels, *exact[1:])
    found["views"] = differences(result, inputs, expected, exact, torch.ones(()).expand(result.shape))

    found["lost"] = {name: spread(bad) for name, bad in LOST.items()}

    found["empty"] = []
    for maps, queries in ((0, 5), (2, 0)):
        inputs = [tensor[:maps] for tensor in draw(2, 5, 8, levels, 2)]
        inputs = [inputs[0].requires_grad_(), *(tensor[:, :queries].requires_grad_() for tensor in inputs[1:])]
        result = deformable_attention_triton(inputs[0], levels, *inputs[1:])
        result.sum().backward()
        grads = [tensor.grad for tensor in inputs]
        same = all(grad.shape == tensor.shape and not grad.any() for grad, tensor in zip(grads, inputs, strict=True))
        found["empty"].append([list(result.shape), same])
    return found


@pytest.fixture(scope="module")
def found():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@needs_triton
@pytest.mark.parametrize("name", [*CASES, "views"])
def test_kernels_equal_the_reference_in_float64(name, found):
    tolerance = TOLERANCE[CASES[name][5] if name in CASES else "float32"]
    assert set(found[name]) == {"output", "value", "locations", "weights"}
    assert max(found[name].values()) < tolerance, found[name]


@needs_triton
def test_kernels_with_nothing_to_attend(found):
    assert found["empty"] == [[[0, 5, 16], True], [[2, 0, 16], True]]


@needs_triton
@pytest.mark.parametrize("name", LOST)
def test_what_is_no_number_spreads_as_in_the_reference(name, found):
    """The interpreter's maximum keeps NaN where a GPU's drops it: the kernels decide by comparisons alone."""
    assert found["lost"][name][0]["lost"] > 0
    assert all(part["kept"] > 0 for part in found["lost"][name])
    assert all(part["same"] and part["close"] for part in found["lost"][name]), found["lost"][name]


# Who runs


def test_half_precision_reference_places_and_sums_in_float32():
    value, locations, weights = draw(1, 50, 8, ((40, 64),), 4, "bfloat16", "float32")
    result = deformable_attention(value, [(40, 64)], locations, weights)
    exact = deformable_attention(value.double(), [(40, 64)], locations.double(), weights.double())
    assert result.dtype == torch.bfloat16
    # locations rounded to bfloat16 would be 0.25 cells off, and the difference some 0.1
    assert (result.double() - exact).norm() / exact.norm() < 5e-3


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is none: an index that no other test asks for, of the capability that is set; tensors upon it."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    device = torch.device("cuda", next(INDICES))

    def of_capability(*capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        return device

    return of_capability


INDICES = itertools.count(50)


def runs(device, width=16, value_type=torch.float32):
    """What would run for tensors on a device."""
    with FakeTensorMode():
        value = torch.empty(1, 35, HEADS, width, dtype=value_type, device=device)
        return implementation(value, torch.empty(1, 2, HEADS, 1, 1, 2, device=device))


@pytest.mark.parametrize("capability", [(7, 0), (7, 5), (6, 1)])
def test_a_gpu_before_ampere_is_told_of_once(gpu, capability):
    device = gpu(*capability)
    with pytest.warns(UserWarning, match=rf"found compute capability {capability[0]}.{capability[1]}, expected 8.0"):
        assert not kernels_run(device)
    with warnings.catch_warnings(action="error"):
        assert not kernels_run(device)
        assert runs(device) is deformable_attention_reference


def test_a_gpu_without_triton_is_told_of(gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)  # as if it were not installed
    with pytest.warns(UserWarning, match="found no Triton"):
        assert runs(gpu(9, 0)) is deformable_attention_reference


def test_a_gpu_of_another_maker_is_told_of(gpu, monkeypatch):
    device = gpu(9, 4)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.warns(UserWarning, match="not built for NVIDIA's CUDA"):
        assert not kernels_run(device)


@needs_triton
def test_kernels_that_do_not_run_are_told_of_and_replaced(gpu):
    """Here there is no GPU: whatever is in the way when the kernels are tried is the reason."""
    with pytest.warns(UserWarning, match=r"without its Triton kernels, several times slower: GPU \d+: \w+: "):
        assert runs(gpu(9, 0)) is deformable_attention_reference


@needs_triton
def test_kernels_are_for_what_fits_them(monkeypatch):
    from mask_frozen_detr.ops.deformable_attention_triton import deformable_attention_triton

    monkeypatch.setattr(attention, "kernels_run", lambda device: True)
    device = torch.device("cuda", 0)
    kinds = [(16, torch.float32), (64, torch.bfloat16), (20, torch.float16)]
    assert [runs(device, *kind) for kind in kinds] == 3 * [deformable_attention_triton]
    with pytest.warns(UserWarning, match="found heads 65 wide, expected at most 64"):
        assert runs(device, 65) is deformable_attention_reference
    with pytest.warns(UserWarning, match=r"found torch\.float64, expected float32"):
        assert runs(device, 16, torch.float64) is deformable_attention_reference
    with attention.attention_choice("reference"):
        assert runs(device) is deformable_attention_reference
    torch.use_deterministic_algorithms(True)
    try:
        assert runs(device) is deformable_attention_reference
    finally:
        torch.use_deterministic_algorithms(False)


def test_no_kernels_elsewhere():
    assert not kernels_run(torch.device("cpu"))
    assert runs(torch.device("mps")) is deformable_attention_reference


def test_a_choice_that_there_is_not_is_named(monkeypatch):
    with (
        pytest.raises(UserError, match=r"attention_choice: found 'fast', expected 'auto', 'reference'"),
        attention.attention_choice(cast(Any, "fast")),
    ):
        pass
    monkeypatch.setenv("MASK_FROZEN_DETR_ATTENTION", "yes")
    with pytest.raises(UserError, match="MASK_FROZEN_DETR_ATTENTION: found 'yes'"):
        runpy.run_path(str(attention.__file__))


if __name__ == "__main__":
    print(json.dumps(run_in_the_interpreter()))
