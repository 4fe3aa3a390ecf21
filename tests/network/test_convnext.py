"""The ConvNeXt layer against numpy: loops over cells, one channel's filter at a time."""

import math

import numpy as np
import pytest
import torch
from synthetic_detections import scatter_parameters

from mask_frozen_detr.network.convnext import ConvNeXtLayer


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_the_layer_is_what_equation_8_says(activation):
    layer = ConvNeXtLayer(4, activation).double()
    scatter_parameters(layer)
    maps = torch.randn(1, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = {name.removeprefix("block."): value.detach().numpy() for name, value in layer.named_parameters()}
    filters, shift, gain, offset, up, up_bias, down, down_bias = (
        weights[f"block.{name}"]
        for name in ("0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias", "5.weight", "5.bias")
    )
    padded = np.pad(maps[0].numpy(), ((0, 0), (3, 3), (3, 3)))
    expected = np.zeros((4, 5, 6))
    for y in range(5):
        for x in range(6):
            seen = (padded[:, y : y + 7, x : x + 7] * filters[:, 0]).sum((1, 2)) + shift
            normed = (seen - seen.mean()) / np.sqrt(seen.var() + 1e-6) * gain + offset
            hidden = up @ normed + up_bias
            if activation == "relu":
                hidden = hidden.clip(0)
            else:
                hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
            expected[:, y, x] = maps[0, :, y, x].numpy() + weights["layer_scale"][:, 0, 0] * (down @ hidden + down_bias)
    with torch.no_grad():
        np.testing.assert_allclose(layer(maps)[0].numpy(), expected, atol=1e-9)
