"""What ends a training: losses, memory, disks, pictures and folders that fail, each with a word on what to do."""

import errno
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import read_metrics
from tiny_training import CONFIG, build

from mask_frozen_detr import MaskFrozenDetr, UserError
from mask_frozen_detr.data.classes import classes_of
from mask_frozen_detr.data.coco import Skipped
from mask_frozen_detr.data.images import read_image
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.network import training_free
from mask_frozen_detr.training.checkpoint import load_checkpoint
from mask_frozen_detr.training.config import AugmentConfig, LossConfig, TrainConfig
from mask_frozen_detr.training.loop import train
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE
from mask_frozen_detr.training.samples import SampleOrder, TrainingData
from mask_frozen_detr.training.step import step_losses

# --- when it fails ---


def test_a_loss_that_is_not_finite_stops_the_run(squashing, scenes, tiny_network, tmp_path, monkeypatch):
    def spoil(*args, **options):
        found = step_losses(*args, **options)
        return {**found, "bce": found["bce"] * float("nan")} if len(seen) == 3 else found

    seen: list[None] = []

    def counted(*args, **options):
        seen.append(None)
        return spoil(*args, **options)

    monkeypatch.setattr("mask_frozen_detr.training.step.step_losses", counted)
    config = replace(CONFIG, iterations=8, log_every=8, checkpoint_every=2)  # the third step spoils the weights
    with pytest.raises(UserError, match=r"not finite any more at iteration 4.*--lr"):
        train(build(squashing, tiny_network), scenes[0], None, tmp_path, config, quiet=True)
    state = load_checkpoint(tmp_path / CHECKPOINT_FILE)  # of before
    assert state["step"] == 2
    assert all(value.isfinite().all() for value in state["learned"].values())
    assert not (tmp_path / WEIGHTS_FILE).exists()

    seen.clear()
    with pytest.raises(UserError, match=r"the loss is nan at iteration 3.*--precision fp32"):
        train(build(squashing, tiny_network), scenes[0], None, tmp_path / "b", replace(config, log_every=1), quiet=True)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory"),
    ],
)
@pytest.mark.parametrize("place", ["forward", "backward", "loading"])
def test_too_little_memory_names_the_pictures(
    place, error, squashing, scenes, tiny_network, tmp_path, monkeypatch, capfd
):
    def lack(*_args, **_options):
        raise error

    target = {
        "forward": "mask_frozen_detr.training.step.mask_losses",
        "backward": "mask_frozen_detr.training.state.RunState.backward",
        "loading": "mask_frozen_detr.training.samples.jitter_colour",
    }[place]
    monkeypatch.setattr(target, lack)
    config = replace(CONFIG, iterations=2, batch=2, augment=AugmentConfig(colour_jitter=0.1))
    with pytest.raises(UserError) as told:
        train(build(squashing, tiny_network), scenes[0], None, tmp_path / "run", config, quiet=True)
    message = str(told.value)
    named = [record.path for record in scenes[0].images if str(record.path) in message]
    assert "not enough memory" in message
    assert "\n" not in message
    assert len(named) == (1 if place == "loading" else 2)  # a batch
    assert ("iteration 1" in message and "--accumulate" in message) or place == "loading"


def test_a_loading_process_that_is_killed_is_one_line(squashing, scenes, tiny_network, tmp_path, monkeypatch):
    calls, note = iter(range(99)), tmp_path / "victim"

    def be_killed(record, _orientation):
        if next(calls) == 2:
            note.write_text(str(record.path))
            os.kill(os.getpid(), signal.SIGKILL)
        return read_image(record.path)

    monkeypatch.setattr("mask_frozen_detr.training.samples.open_picture", be_killed)
    config = replace(CONFIG, iterations=20, batch=1, workers=1)
    expected = r"a process that works on pictures was killed.*fewer --workers.*--resume"
    with pytest.raises(UserError, match=expected) as told:
        train(build(squashing, tiny_network), scenes[0], None, tmp_path / "run", config, quiet=True)
    assert str(told.value).startswith(f"{note.read_text()}: ")


@pytest.mark.parametrize("victim", [CHECKPOINT_FILE, METRICS_FILE, WEIGHTS_FILE])
def test_a_full_disk(victim, squashing, scenes, tiny_network, tmp_path, monkeypatch):
    """A clear message that names the file; an older checkpoint stays."""
    stem = Path(victim).stem
    calls: list[str] = []
    real_replace, real_open = os.replace, open

    def full(path: object) -> None:
        if stem in Path(str(path)).name:
            calls.append(str(path))
            if len(calls) == (1 if victim == WEIGHTS_FILE else 2):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def replace_file(source, target):
        full(target)
        real_replace(source, target)

    def open_file(path, mode="r", *args, **options):
        if mode == "a":
            full(path)
        return real_open(path, mode, *args, **options)

    monkeypatch.setattr("mask_frozen_detr.machine.files.os.replace", replace_file)
    monkeypatch.setattr("mask_frozen_detr.training.run_folder.open", open_file, raising=False)
    model = build(squashing, tiny_network)
    with pytest.raises(UserError, match=rf"{victim}: cannot be written: No space left on device"):
        train(model, scenes[0], None, tmp_path, replace(CONFIG, iterations=4, checkpoint_every=1), quiet=True)
    assert load_checkpoint(tmp_path / CHECKPOINT_FILE)["step"] == (4 if victim == WEIGHTS_FILE else 1)
    assert not list(tmp_path.glob(".*.part*"))


def test_unreadable_images_are_named_and_counted(squashing, scenes, tiny_network, tmp_path, capsys):
    known = {record.id for record in scenes[0].images}
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(scenes[0].images[0].path.read_bytes()[:-2000])
    images = [replace(scenes[0].images[0], path=broken), *scenes[0].images[1:]]
    images[1] = replace(images[1], path=tmp_path / "gone.jpg")
    images[2] = replace(images[2], width=images[2].width + 1)
    data = replace(scenes[0], images=images)
    train(build(squashing, tiny_network), data, None, tmp_path / "run", replace(CONFIG, iterations=10))
    shown = capsys.readouterr().err
    assert len(known) == len(images)
    usable = len(
        TrainingData(
            data, classes_of(data, squashing.info.class_names), squashing.info.preprocessing, AugmentConfig(), 0
        )
    )
    bad = [record for record in images[:3] if any(a.category_id <= 3 for a in record.annotations)]
    assert bad
    for record in bad:
        assert f"skipped: {record.path}" in shown
    assert f"{len(bad)} of {usable} images could not be used" in shown


def test_bad_images_at_the_very_start_do_not_end_the_run(squashing, scenes, tiny_network, tmp_path):
    usable = [record for record in scenes[0].images if any(a.category_id <= 3 for a in record.annotations)]
    first = [item for ((item, _),) in SampleOrder(len(usable), 1, 3, CONFIG.seed)]
    images = list(usable)
    for index in first[:2]:
        images[index] = replace(images[index], path=tmp_path / f"gone-{index}.jpg")
    config = replace(CONFIG, iterations=3, batch=1)
    train(build(squashing, tiny_network), replace(scenes[0], images=images), None, tmp_path / "run", config, quiet=True)
    assert [line["loss"] > 0 for line in read_metrics(tmp_path / "run")] == [False, False, True]


def test_not_one_readable_image(squashing, scenes, tiny_network, tmp_path):
    images = [replace(record, path=tmp_path / f"gone-{record.id}.jpg") for record in scenes[0].images]
    data = replace(scenes[0], images=images)
    with pytest.raises(UserError, match=r"not one training image can be read, the first: .*gone-\d+\.jpg"):
        train(build(squashing, tiny_network), data, None, tmp_path / "run", CONFIG, quiet=True)
    assert not (tmp_path / "run" / WEIGHTS_FILE).exists()


def test_broken_annotations_are_counted_at_the_end(squashing, scenes, tiny_network, tmp_path, capsys):
    data = replace(scenes[0], skipped=[Skipped("annotation 1", "no segmentation"), Skipped("annotation 2", "bbox: 0")])
    train(build(squashing, tiny_network), data, None, tmp_path / "run", CONFIG)
    assert "2 entries of instances_train2017.json were broken and have been skipped" in capsys.readouterr().err


def test_val_data_of_other_classes_is_refused_before_anything_is_written(squashing, scenes, tiny_network, tmp_path):
    val = replace(scenes[1], categories={1: "cat"}, annotation_file=Path("instances_val.json"))
    with pytest.raises(UserError, match=r"instances_val\.json: no category of the data is a class of the run"):
        train(build(squashing, tiny_network), scenes[0], val, tmp_path / "run", CONFIG, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_network_without_parameters_is_refused(padding, scenes, tmp_path):
    with pytest.raises(UserError, match="no part that could learn"):
        train(MaskFrozenDetr.build(padding, training_free(stem=False)), scenes[0], None, tmp_path, CONFIG, quiet=True)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"batch": 2.0},
        {"batch": True},
        {"batch": 1 << 20},
        {"clip": -1.0},
        {"clip": float("inf")},
        {"weight_decay": -1e-4},
        {"weight_decay": 1e6},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"betas": (0.9,)},
        {"betas": 0.9},
        {"drops": (0.95, 0.9)},
        {"drops": (0.5, 0.5)},
        {"drops": (-0.5,)},
        {"drops": (0.0,)},
        {"drops": (1.5,)},
        {"drops": 0.9},
        {"warmup": -1},
        {"epochs": "6"},
        {"epochs": float("inf")},
        {"lr": None},
        {"lr": -1e-3},
        {"max_detections": 1.5},
        {"evaluate_every": -1},
        {"precision": "half"},
        {"finetune": None},
        {"loss": None},
        {"augment": {}},
        {"accumulate": 0},
        {"iterations": 0},
        {"epochs": 0.0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"ema": 1.0},
        {"min_box_iou": -0.1},
        {"seed": -1},
        {"seed": 1 << 32},
        {"workers": -2},
        {"log_every": 0},
        {"checkpoint_every": 0},
        {"optimizer": "sgd"},
    ],
)
def test_options_that_make_no_sense(options):
    ((name, value),) = options.items()
    with pytest.raises(UserError, match=rf"{name}: found .*, expected"):
        TrainConfig(**options)
    if not isinstance(value, tuple):
        with pytest.raises(UserError, match=re.escape(f"{name}: found {value!r}, expected")):
            TrainConfig(**options)


def test_drops_and_a_cosine_contradict_each_other():
    with pytest.raises(UserError, match=r"drops: found \(0\.5,\) beside a cosine"):
        TrainConfig(cosine=True, drops=(0.5,))


@pytest.mark.parametrize(
    "options",
    [
        {"bce_weight": -5.0},
        {"dice_weight": float("nan")},
        {"iou_weight": "1"},
        {"bce_weight": 0, "dice_weight": 0.0},
        {"sampled_points": 1},
        {"point_fraction": 0.0},
        {"point_fraction": 1.5},
        {"oversample": 0.5},
        {"oversample": 1e9},
        {"importance": -0.1},
        {"importance": 1.1},
    ],
)
def test_losses_that_make_no_sense(options):
    with pytest.raises(UserError, match=rf"{next(iter(options))}.*: found .*, expected"):
        LossConfig(**options)


@pytest.mark.parametrize(
    "options", [{"flip": "yes"}, {"crop": None}, {"colour_jitter": -0.1}, {"colour_jitter": 1.0}, {"multi_scale": 1}]
)
def test_augmentation_that_makes_no_sense(options):
    with pytest.raises(UserError, match=rf"{next(iter(options))}: found .*, expected"):
        AugmentConfig(**options)


def test_the_largest_seed_works(squashing, scenes, tiny_network, tmp_path):
    config = replace(CONFIG, seed=(1 << 32) - 1)
    train(build(squashing, tiny_network), scenes[0], None, tmp_path, config, quiet=True)
    assert np.isfinite([line["loss"] for line in read_metrics(tmp_path)]).all()
