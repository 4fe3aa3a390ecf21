"""Host and device: what the host knows goes over without either waiting for the other.

A plain copy to a GPU lets the host wait until the GPU has done all that it was asked for before; so does every look
at a number that lies there. Pixel masks, matches and targets therefore stay on the host, and go over from pinned
memory.
"""

import platform

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`; to a CUDA device from the host without waiting.

    Copies to other devices wait: Metal (MPS) reads memory that is not pinned after the host may have changed it.
    """
    if device.type != "cuda" or tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def peak_memory(device: torch.device) -> float:
    """Gigabytes that this process has taken at most: of a CUDA device its tensors', else of the host.

    nan where the system does not tell: on Windows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:
        return float("nan")
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def processor_name() -> str:
    """The processor as Linux calls it; elsewhere what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
