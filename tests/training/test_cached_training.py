"""Trainings with a cache of frozen outputs: the same curve, and the same weights however often it was killed."""

import json
import os
import signal
from pathlib import Path

import pytest
from folders import read_metrics
from nursery import NURSERY, run_main

from mask_frozen_detr.cli import main
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.training import frozen_views

NETWORK = "--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --no-report --log none"
TRAINING = "--iterations 8 --checkpoint-every 3 --log-every 1 --min-box-iou 0 --lr 1e-3 --workers 0 --precision fp32"


def command(detector: Path, data: Path, output: Path, *more: str) -> list[str]:
    annotations = data / "annotations" / "instances_train2017.json"  # that split alone: there is no evaluation
    start = ["train", str(detector), str(annotations), "--output", str(output)]
    return [*start, *f"{NETWORK} {TRAINING}".split(), *more]


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(output)]


def test_training_with_and_without(squashing_folder, scenes_folder, tmp_path, capsys):
    """The same curve up to bf16; the second run, which finds all there, ends with the first one's very weights."""
    options = (squashing_folder, scenes_folder)
    assert main(command(*options, tmp_path / "without", "--no-crop", "--no-multi-scale")) == 0
    assert main(command(*options, tmp_path / "first", "--cache", str(tmp_path / "cache"))) == 0
    shown = capsys.readouterr().err
    assert shown.count("cache: ") == 1
    assert "random sizes, crops and pasted objects are off" in shown
    assert main(command(*options, tmp_path / "second", "--cache", str(tmp_path / "cache"))) == 0
    assert (tmp_path / "first" / WEIGHTS_FILE).read_bytes() == (tmp_path / "second" / WEIGHTS_FILE).read_bytes()
    first, second = (json.loads((tmp_path / run / "training.json").read_text()) for run in ("first", "second"))
    for own in ("run", "files", "checksum"):  # each run has a name of its own
        assert first.pop(own) != second.pop(own)
    assert first == second
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    assert losses(tmp_path / "first") == pytest.approx(losses(tmp_path / "without"), rel=0.02)
    assert losses(tmp_path / "first") != losses(tmp_path / "without")


def be_killed(arguments: list[str], number: int) -> None:
    """A child that dies with its `number`-th view cut short, as after a loss of power."""
    seen, original = 0, frozen_views.write_bytes_atomic

    def torn(path: str | Path, data: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen < number:
            original(path, data)
            return
        Path(path).write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    frozen_views.write_bytes_atomic = torn
    run_main(arguments, {})


def test_a_killed_run_ends_as_the_one_that_was_not(squashing_folder, scenes_folder, tmp_path, capsys):
    options = (squashing_folder, scenes_folder)
    cached = ("--cache", str(tmp_path / "cache"))
    killed = command(*options, tmp_path / "killed", *cached)
    child = NURSERY.Process(target=be_killed, args=(killed, 11))
    child.start()
    child.join(timeout=120)
    assert child.exitcode == -signal.SIGKILL, "the run ended before it could be killed"
    assert len(list(tmp_path.glob("cache/*/*.safetensors"))) == 11  # the last one cut short
    assert main(command(*options, tmp_path / "killed", "--resume", "--no-crop", "--no-multi-scale")) == 2
    assert "frozen outputs" in capsys.readouterr().err, "a run goes on as it was started"
    assert main([*killed, "--resume"]) == 0
    assert main(command(*options, tmp_path / "undisturbed", "--cache", str(tmp_path / "another"))) == 0
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")
    assert (tmp_path / "killed" / WEIGHTS_FILE).read_bytes() == (tmp_path / "undisturbed" / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--cache-limit", "0.00001"], ["limit", "GB", "--cache-limit"]),
        (["--cache-limit", "0"], ["cache_limit"]),
        (["--large-scale-jitter"], ["large_scale_jitter", "--cache"]),
        (["--colour-jitter", "0.3"], ["colour_jitter", "0.3", "--cache"]),
    ],
)
def test_what_the_command_line_refuses(more, words, squashing_folder, scenes_folder, tmp_path, capsys):
    arguments = command(squashing_folder, scenes_folder, tmp_path / "run", "--cache", str(tmp_path / "cache"), *more)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "cache").exists()
