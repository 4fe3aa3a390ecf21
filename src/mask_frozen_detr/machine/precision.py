"""The precision that models compute in: float32, or half precision by autocast where the machine is fast in it."""

import warnings
from contextlib import AbstractContextManager

import torch

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.config import Precision

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # of x86 processors; without them bf16 is slower than float32


def fast_in_bf16(device: torch.device) -> bool:
    """Whether a device computes in bf16 itself: GPUs from Ampere on, processors with instructions for it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in BF16_INSTRUCTIONS)
    return False


def resolve_precision(precision: Precision, device: torch.device) -> Precision:
    """auto → bf16 where that is fast, else fp32. Raises UserError for fp16 on a CPU.

    auto is never fp16: a frozen detector was not made for its narrow range and may overflow in it without a word.
    GPUs that have fast fp16 alone (V100, T4) are told of it by a warning.
    """
    if precision == "auto" and device.type == "cuda" and not fast_in_bf16(device):
        warnings.warn(
            "precision 'auto' is float32 on this GPU, which does not compute in bf16; where it has tensor cores "
            "(V100, T4) 'fp16' is faster, if the detector does not overflow in it",
            stacklevel=2,
        )
    if precision == "auto":
        return "bf16" if fast_in_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision: found 'fp16', which needs a GPU; expected 'fp32' or 'bf16' on a CPU")
    return precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager:
    """Within it models compute in `precision`; weights stay as they are. Raises UserError as `resolve_precision`."""
    dtype = HALF.get(resolve_precision(precision, device))
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)
