"""What befalls a run in another process: a signal in a step or in the evaluation, an edit of its files."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from nursery import NURSERY, run_main

from mask_frozen_detr.training import records, step
from mask_frozen_detr.training.run_folder import METRICS_FILE

Command = Callable[..., list[str]]  # of a training: its arguments, given the output and more options


def stop_in_step(number: int, kind: signal.Signals, waits: bool) -> None:
    """The forward pass of that step sends a signal; with `waits` it does not come to an end."""
    original = step.step_losses
    seen: list[None] = []

    def losses(*parts, **options):
        seen.append(None)
        if len(seen) == number:
            os.kill(os.getpid(), kind)
            while waits:
                time.sleep(0.01)
        return original(*parts, **options)

    step.step_losses = losses


def stop_in_evaluation(kind: signal.Signals) -> None:
    """The evaluation sends a signal as it begins."""
    original = records.measure

    def evaluate(*parts, **options):
        os.kill(os.getpid(), kind)
        return original(*parts, **options)

    records.measure = evaluate


def stopped(arguments: list[str], patch: Callable, *options: object) -> None:
    """What a child does: the command line, after `patch(*options)`."""
    patch(*options)
    run_main(arguments, {})


def run_stopped(arguments: list[str], patch: Callable, *options: object) -> int | None:
    """The exit code of the command line in a child, after `patch(*options)` there."""
    child = NURSERY.Process(target=stopped, args=(arguments, patch, *options))
    child.start()
    child.join(timeout=120)
    return child.exitcode


def wait_for_lines(output: Path, count: int) -> None:
    """Until a run in another process has taken `count` steps."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (output / METRICS_FILE).exists() and (output / METRICS_FILE).read_text().count("\n") >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"{output}: the run did not get to iteration {count}")


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Changes a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
