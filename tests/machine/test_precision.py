"""Which precision is taken where nobody says."""

import pytest
import torch

from mask_frozen_detr.machine.config import Precision
from mask_frozen_detr.machine.precision import autocast, fast_in_bf16, resolve_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),  # of processors that have other names for it, or that torch does not know
    ],
)
def test_processors(capabilities, fast, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert fast_in_bf16(CPU) == fast
    assert resolve_precision("auto", CPU) == ("bf16" if fast else "fp32")


def test_a_gpu_that_only_emulates_bf16_is_not_fast(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    with pytest.warns(UserWarning, match="'auto' is float32 on this GPU.*'fp16' is faster"):
        assert resolve_precision("auto", GPU) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert resolve_precision("auto", GPU) == "bf16"


def test_other_devices_compute_in_float32():
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


def test_what_is_asked_for_is_taken():
    a, b = torch.ones(2, 2), torch.ones(2, 2)
    cases: list[tuple[Precision, torch.dtype]] = [("fp32", torch.float32), ("bf16", torch.bfloat16)]
    for precision, dtype in cases:
        with autocast(precision, CPU):
            assert (a @ b).dtype == dtype
