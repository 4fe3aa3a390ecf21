"""Muon: each step against numpy's singular vectors and torch's own AdamW."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mask_frozen_detr.training.muon import Muon, is_matrix, matrices_apart, orthogonal


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4)])
def test_orthogonal_keeps_the_singular_vectors_and_evens_the_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    in_their_frame = left.T @ orthogonal(matrix).numpy() @ right.T
    values = np.diagonal(in_their_frame)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert np.abs(in_their_frame - np.diag(values)).max() < 1e-4
    assert not orthogonal(torch.zeros(shape)).any()


def test_matrices_are_what_mixes_channels():
    network = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 3),
            "mixing": nn.Conv2d(4, 8, 3),
            "depthwise": nn.Conv2d(4, 4, 7, groups=4),
            "norm": nn.LayerNorm(4),
        }
    )
    matrices = {name for name, parameter in network.named_parameters() if is_matrix(parameter)}
    assert matrices == {"linear.weight", "mixing.weight"}
    apart, others = matrices_apart(list(network.parameters()), share=1.0)
    assert (len(apart["params"]), len(others["params"])) == (2, 6)


def test_a_matrix_steps_by_the_rate_and_the_others_as_adamw():
    torch.manual_seed(0)
    layers = [nn.Linear(6, 5) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}
    ours = Muon(matrices_apart(list(layers[0].parameters())), **settings)
    theirs = torch.optim.AdamW(layers[1].parameters(), **settings)
    for _ in range(3):
        weight = layers[0].weight.detach().clone()
        gradients = torch.randn(5, 6), torch.randn(5)
        for layer in layers:
            layer.weight.grad, layer.bias.grad = (gradient.clone() for gradient in gradients)
        ours.step()
        theirs.step()
        step = (layers[0].weight.detach() - weight * (1 - 0.01 * 0.1)).square().mean().sqrt()
        assert 0.006 < float(step) < 0.013
    torch.testing.assert_close(layers[0].bias, layers[1].bias)


def test_what_has_no_gradient_stays():
    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    Muon(matrices_apart(list(layer.parameters())), lr=0.1, betas=(0.9, 0.999), weight_decay=0.1).step()
    assert torch.equal(layer.weight, before)


def test_a_saved_state_goes_on_to_the_same_weights():
    def stepped(layer: nn.Linear, optimizer: Muon, seed: int) -> None:
        for number, parameter in enumerate(layer.parameters()):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed + number))
        optimizer.step()

    def optimizer_of(layer: nn.Linear) -> Muon:
        return Muon(matrices_apart(list(layer.parameters())), lr=0.1, betas=(0.9, 0.999), weight_decay=0.1)

    first, second = nn.Linear(4, 6), nn.Linear(4, 6)
    one, other = optimizer_of(first), optimizer_of(second)
    stepped(first, one, 0)
    second.load_state_dict(first.state_dict())
    other.load_state_dict(deepcopy(one.state_dict()))
    stepped(first, one, 10)
    stepped(second, other, 10)
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
