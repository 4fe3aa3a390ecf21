"""Host and device: what the host knows goes over without either waiting for the other.

A plain copy to a GPU lets the host wait until the GPU has done all that it was asked for before; so does every look
at a number that lies there. Pixel masks, matches and targets therefore stay on the host, and go over from pinned
memory.
"""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`, from the host without waiting."""
    if device.type == "cuda" and tensor.device.type == "cpu" and not torch.compiler.is_compiling():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
