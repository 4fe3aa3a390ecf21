"""Table 11: the detector learns beside the mask network, and is saved with it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from folders import read_metrics
from narrow import gradient, pixels
from official_samples import BACKBONES, random_model, small_deformable, small_dino, write_checkpoint
from safetensors.torch import load_file
from torch import Tensor

from mask_frozen_detr import MaskFrozenDetr, UserError, load_detector
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.detectors.base import FrozenDetector, hash_weights
from mask_frozen_detr.model import CONFIG_FILE, DETECTOR_FOLDER, WEIGHTS_FILE
from mask_frozen_detr.training import run_folder
from mask_frozen_detr.training.config import AugmentConfig, LossConfig, TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.matching import Matcher
from mask_frozen_detr.training.run_folder import TRAINING_FILE
from mask_frozen_detr.training.samples import TrainingData, collate
from mask_frozen_detr.training.step import step_losses

CONFIG = TrainConfig(
    iterations=2, finetune="full", workers=0, log_every=1, lr=1e-3, min_box_iou=0.0, report=False, log="none"
)
LABELS = [
    {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.4, 0.2, 0.3], [0.6, 0.6, 0.3, 0.2]])},
    {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.5]])},
]


def state(detector: FrozenDetector) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in detector.model.state_dict().items()}


def changed(before: dict[str, Tensor], detector: FrozenDetector) -> set[str]:
    return {name for name, value in detector.model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture(params=["squashing", "padding"])
def folder(request) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


# --- what learns ---


@pytest.mark.parametrize("part", ["none", "partial", "full"])
def test_only_what_shall_learn_changes(part, folder, scenes, tiny_network, tmp_path):
    detector = load_detector(folder)
    before = state(detector)
    train(MaskFrozenDetr.build(detector, tiny_network), scenes[0], None, tmp_path, replace(CONFIG, finetune=part))
    names = changed(before, detector)
    parameters = {name for name, _ in detector.model.named_parameters(remove_duplicate=False)}  # shared heads
    backbone = {name for name in parameters if ".backbone." in f".{name}"}
    assert 0 < len(backbone) < len(parameters)
    assert names <= parameters, "statistics of batch norms are no parameters"
    if part == "none":
        assert not names
    if part == "partial":
        transformer = {name for name in parameters if name.startswith(("model.encoder.", "model.decoder."))}
        assert not names - transformer
        assert len(names) > 0.7 * len(transformer)  # the heads that lie in a decoder stay as they are
    if part == "full":
        assert len(names & backbone) > 0.9 * len(backbone)
        assert len(names - backbone) > 0.8 * len(parameters - backbone)
    assert not any(parameter.requires_grad for parameter in detector.parameters()), "frozen again at the end"


def test_the_detector_learns_at_a_tenth_of_the_rate(squashing_folder, scenes, tiny_network, tmp_path, monkeypatch):
    seen = []
    original = run_folder.save_checkpoint

    def note(path: Path, saved: dict) -> None:
        seen.append(saved)
        original(path, saved)

    monkeypatch.setattr(run_folder, "save_checkpoint", note)
    model = MaskFrozenDetr.build(load_detector(squashing_folder), tiny_network)
    train(model, scenes[0], None, tmp_path, replace(CONFIG, drops=(), iterations=1))
    network, detector = seen[0]["optimizer"]["param_groups"]
    assert network["lr"] == pytest.approx(1e-3)
    assert detector["lr"] == pytest.approx(1e-4)
    assert len(detector["params"]) == sum(1 for _ in model.detector.model.parameters())


def test_the_loss_is_the_models_own_beside_the_masks(folder, scenes, tiny_network):
    detector = load_detector(folder)
    data = TrainingData(
        scenes[0], classes_of(scenes[0], detector.info.class_names), detector.info.preprocessing, AugmentConfig(), 0
    )
    batch = collate([data[(0, 0)], data[(1, 1)]])
    model = MaskFrozenDetr.build(detector, tiny_network)
    matcher = Matcher(detector.info.costs, detector.info.score_rule)
    frozen = step_losses(model, matcher, batch, LossConfig(sampled_points=False), 0)
    assert "detection" not in frozen
    detector.unfreeze("full")
    found = step_losses(model, matcher, batch, LossConfig(sampled_points=False), 0)
    # In the memory format that a frozen one computes in: the same masks.
    same = replace(batch, images=pixels(batch).contiguous(memory_format=torch.channels_last))
    again = step_losses(model, matcher, same, LossConfig(sampled_points=False), 0)
    assert again["bce"].item() == pytest.approx(frozen["bce"].item(), rel=1e-5)
    labels = [{"class_labels": target.labels, "boxes": target.boxes} for target in batch.targets]
    inputs = {"pixel_mask": batch.pixel_mask} if "padding" in str(folder) else {}
    expected = detector.model(pixel_values=batch.images, labels=labels, **inputs).loss
    assert found["detection"].item() == pytest.approx(expected.item(), rel=1e-5)
    # Masks alone reach the detector as well: through queries and maps.
    (found["bce"] + found["dice"]).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in detector.model.parameters())


def test_boxes_come_nearer(squashing_folder, scenes, tiny_network, tmp_path):
    """The detector's own loss falls: some steps on two images."""
    detector = load_detector(squashing_folder)
    data = replace(scenes[0], images=scenes[0].images[:2])
    config = replace(CONFIG, iterations=12, lr=2e-2, augment=AugmentConfig(flip=False, crop=False, multi_scale=False))
    train(MaskFrozenDetr.build(detector, tiny_network), data, None, tmp_path, config)
    losses = [line["detection"] for line in read_metrics(tmp_path)]
    assert losses[-1] < 0.8 * losses[0]


# --- what is saved ---


def test_the_run_holds_the_detector(folder, scenes, tiny_network, tmp_path):
    detector = load_detector(folder)
    start = detector.info.identity
    model = MaskFrozenDetr.build(detector, tiny_network)
    run = tmp_path / "run"
    train(model, scenes[0], None, run, replace(CONFIG, ema=0.5))
    photo = scenes[1].images[0].path
    expected = model.eval().predict(photo, 0.0)
    assert len(expected) > 5
    moved = run.rename(tmp_path / "moved")
    for place in (moved, tmp_path / "again"):
        loaded = MaskFrozenDetr.from_pretrained(place if place.exists() else moved)
        if not place.exists():
            loaded.save_pretrained(place)
            loaded = MaskFrozenDetr.from_pretrained(place)
        assert loaded.detector.info.identity.weights != start.weights
        assert loaded.detector.info.class_names == detector.info.class_names
        found = loaded.predict(photo, 0.0)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    saved = json.loads((moved / CONFIG_FILE).read_text())["detector"]
    assert saved["name"] == DETECTOR_FOLDER
    assert saved["weights"] == load_detector(moved / DETECTOR_FOLDER).info.identity.weights
    assert json.loads((moved / TRAINING_FILE).read_text())["detector"]["weights"] == start.weights
    assert not any(key.startswith("detector") for key in load_file(moved / WEIGHTS_FILE))
    image = read_image(photo)
    assert torch.equal(loaded.detector.info.preprocessing(image), load_detector(folder).info.preprocessing(image))


def test_the_old_detector_is_another_one(squashing_folder, scenes, tiny_network, tmp_path):
    train(MaskFrozenDetr.build(load_detector(squashing_folder), tiny_network), scenes[0], None, tmp_path, CONFIG)
    with pytest.raises(UserError, match="other weights"):
        MaskFrozenDetr.from_pretrained(tmp_path, squashing_folder)


def test_a_finished_run_is_loaded_with_its_detector(squashing_folder, scenes, tiny_network, tmp_path):
    first = MaskFrozenDetr.build(load_detector(squashing_folder), tiny_network)
    train(first, scenes[0], scenes[1], tmp_path, CONFIG, quiet=True)
    second = MaskFrozenDetr.build(load_detector(squashing_folder), tiny_network)
    evaluation = train(second, scenes[0], scenes[1], tmp_path, CONFIG, resume=True, quiet=True)
    assert evaluation is not None
    assert hash_weights(second.detector.model) == hash_weights(first.detector.model)
    assert hash_weights(second.network) == hash_weights(first.network)


def test_a_new_run_gives_up_the_old_detector(squashing_folder, scenes, tiny_network, tmp_path):
    train(MaskFrozenDetr.build(load_detector(squashing_folder), tiny_network), scenes[0], None, tmp_path, CONFIG)
    assert (tmp_path / DETECTOR_FOLDER).is_dir()
    frozen = MaskFrozenDetr.build(load_detector(squashing_folder), tiny_network)
    train(frozen, scenes[0], None, tmp_path, replace(CONFIG, finetune="none"), overwrite=True)
    assert not (tmp_path / DETECTOR_FOLDER).exists()
    assert MaskFrozenDetr.from_pretrained(tmp_path).detector.info.identity.name == str(squashing_folder.resolve())


# --- official detectors ---


@pytest.mark.parametrize("build", [small_dino, small_deformable])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_official_detectors_learn_and_are_saved(build, backbone, tmp_path):
    detector = load_detector(write_checkpoint(random_model(build(backbone)), tmp_path / "file.pth"))
    parameters = detector.unfreeze("full")
    pixel_values = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    pixel_mask = torch.ones(2, 64, 96, dtype=torch.long)
    found = detector(pixel_values, pixel_mask, LABELS)
    assert found.loss is not None
    outputs = detector.model(pixel_values, pixel_mask)
    model: Any = detector.model
    torch.testing.assert_close(found.loss, model.detection_loss(outputs, [dict(t) for t in LABELS])[0])
    found.loss.backward()
    reached = [parameter for parameter in parameters if parameter.grad is not None and parameter.grad.any()]
    assert len(reached) > 0.8 * len(parameters)
    with torch.no_grad():
        for parameter in reached:
            parameter.sub_(1e-3 * gradient(parameter).sign())
    (tmp_path / "saved").mkdir()
    detector.save(tmp_path / "saved")
    again = load_detector(tmp_path / "saved")
    assert hash_weights(again.model) == hash_weights(detector.model)
    assert again.info.identity.weights == detector.hash_checkpoint() != detector.info.identity.weights
    parts = ("transformer.encoder.", "transformer.decoder.")
    expected = [name for name, _ in again.model.named_parameters() if name.startswith(parts)]
    assert 0 < len(again.unfreeze("partial")) == len(expected) < len(parameters)


# --- what is refused ---


def test_a_wrong_choice_is_named():
    with pytest.raises(ValueError, match=re.escape("finetune: found 'half', expected 'none', 'partial', 'full'")):
        TrainConfig(finetune=cast(Any, "half"))
