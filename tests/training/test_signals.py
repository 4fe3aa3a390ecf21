"""Ctrl-C and SIGTERM: a run that is stopped loses no step, and goes on to the very weights."""

import os
import signal
import time
from pathlib import Path

import pytest
from folders import read_metrics
from nursery import NURSERY
from run_folders import Command, run_stopped, stop_in_evaluation, stop_in_step, stopped, wait_for_lines

from mask_frozen_detr.cli import main
from mask_frozen_detr.machine.locks import LOCK_FILE
from mask_frozen_detr.model import WEIGHTS_FILE
from mask_frozen_detr.training.run_folder import CHECKPOINT_FILE, METRICS_FILE

pytest_plugins = ["run_folder_fixtures"]


def check_goes_on(output: Path, four_steps: Command, expected: Path) -> None:
    assert main(four_steps(output, "--resume")) == 0
    assert (output / WEIGHTS_FILE).read_bytes() == (expected / WEIGHTS_FILE).read_bytes()
    assert [line["step"] for line in read_metrics(output)] == [1, 2, 3, 4]
    assert not (output / LOCK_FILE).exists()


def test_ctrl_c_loses_no_step(unfinished, four_steps, finished_once):
    """The third step, after which no checkpoint was due, is neither lost nor done twice."""
    assert len((unfinished / METRICS_FILE).read_text().splitlines()) == 3
    assert not (unfinished / LOCK_FILE).exists()
    check_goes_on(unfinished, four_steps, finished_once)


@pytest.mark.parametrize(
    ("patch", "options", "code"),
    [
        pytest.param(stop_in_step, (1, signal.SIGTERM, False), 143, id="the first step"),
        pytest.param(stop_in_step, (4, signal.SIGTERM, False), 143, id="the last step", marks=pytest.mark.slow),
        pytest.param(stop_in_evaluation, (signal.SIGINT,), 130, id="Ctrl-C in an evaluation"),
        pytest.param(stop_in_evaluation, (signal.SIGTERM,), 143, id="SIGTERM in an evaluation", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on(patch, options, code, four_steps, finished_once, tmp_path):
    more = ["--evaluate-every", "3"]
    output = tmp_path / "run"
    assert run_stopped(four_steps(output, *more), patch, *options) == code
    assert (output / CHECKPOINT_FILE).exists()
    check_goes_on(output, lambda output, *rest: four_steps(output, *more, *rest), finished_once)
    assert {path.name for path in output.glob("evaluation-*.json")} == {"evaluation-3.json", "evaluation-4.json"}


def test_a_run_stopped_before_its_first_line_goes_on(four_steps, tmp_path):
    """A checkpoint and no metrics yet, as of Ctrl-C in the first of the iterations between lines."""
    output = tmp_path / "run"
    assert run_stopped(four_steps(output, "--log-every", "4"), stop_in_step, 2, signal.SIGINT, False) == 130
    assert not (output / METRICS_FILE).exists()
    assert main(four_steps(output, "--log-every", "4", "--resume")) == 0
    assert [line["step"] for line in read_metrics(output)] == [4]


def test_a_second_signal_ends_at_once(four_steps, tmp_path):
    """Also where the first waits for a step that never ends."""
    output = tmp_path / "run"
    child = NURSERY.Process(target=stopped, args=(four_steps(output), stop_in_step, 3, signal.SIGINT, True))
    child.start()
    try:
        wait_for_lines(output, 2)
        time.sleep(0.5)  # into the third step
        assert child.is_alive(), "the first signal waits for the step"
        os.kill(child.pid or 0, signal.SIGINT)
        child.join(timeout=30)
        assert child.exitcode == 130
    finally:
        child.kill()
