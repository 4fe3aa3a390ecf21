"""The ConvNeXt layer against numpy: loops over cells, one channel's filter at a time."""

import math

import numpy as np
import pytest
import torch
from synthetic_detections import scatter_parameters

from mask_frozen_detr.network.convnext import BatchNormConvNeXtLayer, ConvNeXtLayer


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


LEARNED = {"mean": np.array([0.5, -1.0, 2.0, 0.0]), "variance": np.array([0.3, 1.0, 4.0, 2.0])}


def statistics_of(layer: BatchNormConvNeXtLayer) -> dict[str, np.ndarray]:
    mean, variance = layer.norm.running_mean, layer.norm.running_var
    assert mean is not None
    assert variance is not None
    return {"mean": mean.numpy().copy(), "variance": variance.numpy().copy()}


def batch_norm_layer() -> BatchNormConvNeXtLayer:
    layer = BatchNormConvNeXtLayer(4, "relu").double()
    scatter_parameters(layer)
    learned = {"running_mean": LEARNED["mean"], "running_var": LEARNED["variance"]}
    layer.norm.load_state_dict({**layer.norm.state_dict(), **{k: torch.from_numpy(v) for k, v in learned.items()}})
    return layer


def boxes(count: int) -> torch.Tensor:
    return torch.randn(count, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def expected_of(layer: BatchNormConvNeXtLayer, maps: torch.Tensor, mean=None, variance=None) -> np.ndarray:
    """The layer with this mean and variance of each channel, (4,) each; None: those of all of `maps`."""
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    inputs = maps.numpy()
    padded = np.pad(inputs, ((0, 0), (0, 0), (3, 3), (3, 3)))
    seen = np.zeros_like(inputs)
    for y in range(5):
        for x in range(6):
            piece = padded[:, :, y : y + 7, x : x + 7]
            seen[:, :, y, x] = (piece * weights["depthwise.weight"][:, 0]).sum((2, 3))
    mean = seen.mean((0, 2, 3)) if mean is None else mean
    variance = seen.var((0, 2, 3)) if variance is None else variance
    expected = np.zeros_like(inputs)
    for b, y, x in np.ndindex(len(inputs), 5, 6):
        normed = (seen[b, :, y, x] - mean) / np.sqrt(variance + 1e-5) * weights["norm.weight"] + weights["norm.bias"]
        hidden = (weights["up.weight"][:, :, 0, 0] @ normed + weights["up.bias"]).clip(0)
        expected[b, :, y, x] = inputs[b, :, y, x] + weights["down.weight"][:, :, 0, 0] @ hidden + weights["down.bias"]
    return expected


def test_batch_normalisation_while_it_learns_and_when_it_has():
    layer, maps = batch_norm_layer(), boxes(3)
    with torch.no_grad():
        np.testing.assert_allclose(layer.eval()(maps).numpy(), expected_of(layer, maps, **LEARNED), atol=1e-9)
        np.testing.assert_allclose(layer.train()(maps).numpy(), expected_of(layer, maps), atol=1e-9)
    after = statistics_of(layer)
    assert not np.allclose(after["mean"], LEARNED["mean"])
    with torch.no_grad():
        np.testing.assert_allclose(layer.eval()(maps).numpy(), expected_of(layer, maps, **after), atol=1e-9)


def test_batch_normalisation_without_a_box():
    layer = batch_norm_layer().train()
    output = layer(boxes(0))
    output.sum().backward()
    assert output.shape == (0, 4, 5, 6)
    np.testing.assert_array_equal(statistics_of(layer)["mean"], LEARNED["mean"])
    assert all(parameter.grad is not None for parameter in layer.parameters())
