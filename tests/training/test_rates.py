"""Rates of learning, and the precision that is computed in."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from folders import read_metrics
from safetensors.torch import load_file
from tiny_training import CONFIG, build
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.demo.scenes import SCENE_DETECTOR
from mask_frozen_detr.evaluation import evaluate
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.training.config import TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.run_folder import TRAINING_FILE

# --- rates, precision ---


def test_the_schedule_is_the_papers():
    config = TrainConfig(lr=1.5e-4)
    rates = [config.rate(step, 100) for step in range(100)]
    assert rates[:90] == [1.5e-4] * 90
    assert rates[90:95] == pytest.approx([1.5e-5] * 5)
    assert rates[95:] == pytest.approx([1.5e-6] * 5)


def test_warm_up_is_linear():
    config = TrainConfig(lr=1.0, warmup=4, drops=())
    assert [config.rate(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("config", "images", "steps"),
    [
        (TrainConfig(), 118_000, 354_000),  # six epochs of two images
        (TrainConfig(epochs=1, batch=4), 10, 3),  # the last images of an epoch are not lost
        (TrainConfig(epochs=0.1), 2, 1),
        (TrainConfig(iterations=7), 118_000, 7),
    ],
)
def test_iterations_or_epochs(config, images, steps):
    assert config.steps(images) == steps


def test_rates_reach_the_optimiser_and_the_log(squashing, scenes, tiny_network, tmp_path):
    seen: list[float] = []
    config = replace(CONFIG, iterations=4, warmup=2, drops=(0.75,))
    hook = register_optimizer_step_pre_hook(lambda optimiser, *_: seen.append(optimiser.param_groups[0]["lr"]))
    try:
        train(build(squashing, tiny_network), scenes[0], None, tmp_path, config, quiet=True)
    finally:
        hook.remove()
    assert seen == pytest.approx([5e-4, 1e-3, 1e-3, 1e-4])
    assert [line["lr"] for line in read_metrics(tmp_path)] == pytest.approx(seen)


@pytest.mark.parametrize(
    ("asked", "capable", "used"),
    [("auto", False, "fp32"), ("auto", True, "bf16"), ("fp32", True, "fp32"), ("bf16", False, "bf16")],
)
def test_precision(asked, capable, used, squashing, scenes, tiny_network, tmp_path, monkeypatch):
    """By default what the processor is fast in; weights, and what is saved, are fp32 in any case."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    model = build(squashing, tiny_network)
    seen: set[torch.dtype] = set()
    layer = next(module for module in model.network.modules() if isinstance(module, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    train(model, scenes[0], None, tmp_path, replace(CONFIG, precision=asked, ema=0.5), quiet=True)
    assert seen == {torch.bfloat16 if used == "bf16" else torch.float32}
    assert json.loads((tmp_path / TRAINING_FILE).read_text())["precision"] == used
    assert {value.dtype for value in load_file(tmp_path / WEIGHTS_FILE).values()} == {torch.float32}
    assert all(math.isfinite(line["loss"]) for line in read_metrics(tmp_path))


def test_a_run_in_bf16_is_evaluated_as_evaluate_does_it(scenes, tiny_network, tmp_path):
    """In float32: the boxes' AP is the detector's own."""
    detector = load_detector(SCENE_DETECTOR)
    found = train(
        build(detector, tiny_network), scenes[0], scenes[1], tmp_path, replace(CONFIG, precision="bf16"), quiet=True
    )
    again = evaluate(MaskFrozenDetr.from_pretrained(tmp_path, detector), scenes[1])
    assert found is not None
    assert found.box["AP"] > 30
    for ours, theirs in ((found.box, again.box), (found.mask, again.mask)):
        np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))


def test_fp16_without_a_gpu_is_a_clear_error(squashing, scenes, tiny_network, tmp_path):
    with pytest.raises(UserError, match="precision: found 'fp16'"):
        train(build(squashing, tiny_network), scenes[0], None, tmp_path, replace(CONFIG, precision="fp16"), quiet=True)


def test_the_mean_of_weights_is_what_is_saved(squashing, scenes, tiny_network, tmp_path):
    history: list[torch.Tensor] = []

    def remember(optimiser: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        history.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))

    model = build(squashing, tiny_network)
    hook = register_optimizer_step_post_hook(remember)
    try:
        train(model, scenes[0], None, tmp_path, replace(CONFIG, iterations=3, ema=0.75, lr=1e-2), quiet=True)
    finally:
        hook.remove()
    expected = history[0]
    for updates, weights in enumerate(history[1:], start=1):  # the decay ramps up to 0.75
        decay = (1 + updates) / (10 + updates)
        expected = decay * expected + (1 - decay) * weights
    saved = load_file(tmp_path / WEIGHTS_FILE)
    found = torch.cat([saved[name].flatten() for name, _ in model.network.named_parameters()])
    torch.testing.assert_close(found, expected)
    assert (found - history[-1]).abs().max() > 1e-4
