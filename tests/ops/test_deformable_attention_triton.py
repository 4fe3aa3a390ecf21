"""The Triton kernels against the reference in float64, in Triton's interpreter on the CPU, and who gets to run them.

The cases lie in `kernel_cases`, which is run as a program for them; on a GPU they are run by `tests/gpu`.
"""

import itertools
import json
import os
import runpy
import subprocess
import sys
import warnings
from importlib.util import find_spec
from typing import Any, cast

import kernel_cases
import pytest
import torch
from kernel_cases import CASES, HEADS, LOST, TOLERANCE, draw
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


@pytest.fixture(scope="module")
def found():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, kernel_cases.__file__], env=environment, capture_output=True, text=True, timeout=280
    )
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
