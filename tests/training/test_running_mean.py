"""The running mean against its formula, number by number."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mask_frozen_detr.training.running_mean import RunningMean


def weight_of(mean: AveragedModel) -> torch.Tensor:
    return mean.module.get_parameter("weight")


def weights(step: int) -> nn.Linear:
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.fill_(float(step**2))
        layer.bias.copy_(torch.tensor([1.0, -1.0]) * step)
    return layer


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.998])
def test_the_ramp(decay):
    mean, expected = RunningMean(weights(0), decay), 0.0
    for step in range(60):
        mean.update_parameters(weights(step))
        share = 0.0 if step == 0 else min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * step**2
        assert torch.allclose(weight_of(mean), torch.full((2, 3), expected), rtol=1e-5)


def test_the_start_is_soon_forgotten():
    """With 0.998 and no ramp three quarters of the first weights were left after 150 steps."""
    mean = RunningMean(weights(1), 0.998)
    for step in range(150):
        mean.update_parameters(weights(1 if step == 0 else 0))
    assert weight_of(mean).max() < 1e-6


def test_it_is_saved_and_goes_on_to_the_bit():
    mean = RunningMean(weights(0), 0.9)
    for step in range(5):
        mean.update_parameters(weights(step))
    other = RunningMean(weights(7), 0.9)
    other.load_state_dict(copy.deepcopy(mean.state_dict()))
    for one in (mean, other):
        one.update_parameters(weights(5))
    assert torch.equal(weight_of(mean), weight_of(other))


def test_checkpoints_of_before_the_ramp_load():
    old = AveragedModel(weights(0), multi_avg_fn=get_ema_multi_avg_fn(0.9))
    old.update_parameters(weights(3))
    mean = RunningMean(weights(0), 0.9)
    mean.load_state_dict(old.state_dict())
    assert weight_of(mean)[0, 0] == 9
