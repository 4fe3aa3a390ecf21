"""Runs that tests stop, damage and start over, each made once; for the `pytest_plugins` of a test file."""

import shutil
import signal
from pathlib import Path

import pytest
from run_folders import Command, run_stopped, stop_in_step

from mask_frozen_detr.cli import main

NETWORK = "--preset paper --image-layers 1 --box-layers 1 --mask-width 8 --roi-size 8 --no-report"
TRAINING = "--iterations 4 --checkpoint-every 2 --log-every 1 --min-box-iou 0 --lr 1e-3 --precision fp32 --workers 0"


@pytest.fixture(scope="session")
def scenes_copy(few_scenes_folder, tmp_path_factory) -> Path:
    """A copy, whose files tests may change."""
    return shutil.copytree(few_scenes_folder, tmp_path_factory.mktemp("data") / "scenes")


@pytest.fixture(scope="session")
def detector_copy(squashing_folder, tmp_path_factory) -> Path:
    """A copy, whose files tests may change."""
    return shutil.copytree(squashing_folder, tmp_path_factory.mktemp("detectors") / "copy")


@pytest.fixture(scope="session")
def four_steps(detector_copy, scenes_copy) -> Command:
    """The command line of a training of four steps into a folder."""

    def build(output: Path, *more: str) -> list[str]:
        start = ["train", str(detector_copy), str(scenes_copy), "--output", str(output)]
        return [*start, *f"{NETWORK} {TRAINING}".split(), *more]

    return build


@pytest.fixture(scope="session")
def finished_once(four_steps, tmp_path_factory) -> Path:
    """No test changes it."""
    output = tmp_path_factory.mktemp("finished") / "run"
    assert main(four_steps(output)) == 0
    return output


@pytest.fixture(scope="session")
def stopped_once(four_steps, tmp_path_factory) -> Path:
    """Ctrl-C came in its third step; no test changes it."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    assert run_stopped(four_steps(output), stop_in_step, 3, signal.SIGINT, False) == 130
    return output


@pytest.fixture
def finished(finished_once, tmp_path) -> Path:
    """A copy of `finished_once`, to spoil."""
    return shutil.copytree(finished_once, tmp_path / "run")


@pytest.fixture
def unfinished(stopped_once, tmp_path) -> Path:
    """A copy of `stopped_once`, to spoil."""
    return shutil.copytree(stopped_once, tmp_path / "run")
