"""Sine position encodings of cells and of boxes, and the clamped logit of a box (Zhu et al., 2020, appendix A).

Letters: B images, h × w cells, d width.
"""

import math

import torch
from torch import Tensor


def sine(values: Tensor, width: int, temperature: float) -> Tensor:
    """(…) angles → (…, width): sine and cosine in turn, frequencies falling from 1 to 1 / temperature."""
    index = torch.arange(width, dtype=torch.float32, device=values.device)
    periods = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / width)
    angles = values[..., None] / periods
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], -1).flatten(-2)


def sine_of_cells(valid: Tensor, width: int, temperature: float, offset: float) -> Tensor:
    """(B, h, w) mask, True = image → (B, h·w, width): y, then x, as fractions of the *unpadded* map times 2π."""
    y = valid.cumsum(1, dtype=torch.float32)
    x = valid.cumsum(2, dtype=torch.float32)
    y = (y - offset) / (y[:, -1:, :] + 1e-6) * (2 * math.pi)
    x = (x - offset) / (x[:, :, -1:] + 1e-6) * (2 * math.pi)
    halves = [sine(axis, width // 2, temperature) for axis in (y, x)]  # (B, h, w, width / 2)
    return torch.cat(halves, -1).flatten(1, 2)


def sine_of_boxes(boxes: Tensor, width: int) -> Tensor:
    """(…, 4) in [0, 1] → (…, 4 · width), the coordinates in the order given, each `width` channels."""
    return sine(boxes * (2 * math.pi), width, 10000.0).flatten(-2)


def inverse_sigmoid(values: Tensor, eps: float) -> Tensor:
    """logit of values in [0, 1], both sides clamped at `eps`."""
    values = values.clamp(0, 1)
    return torch.log(values.clamp(min=eps) / (1 - values).clamp(min=eps))
