"""Pictures in forked processes: order, batches, failures and their causes, signals, and processes that are killed."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.flow import Flow
from mask_frozen_detr.machine.forks import ForkedFlow

PATHS = [Path(f"{number}.jpg") for number in range(18)]


class OfTwoThings(Exception):
    """Cannot be pickled: it takes more than its text."""

    def __init__(self, one: str, other: str):
        super().__init__(f"{one} and {other}")


def read(path: Path) -> int:
    if path.stem == "7":
        raise UserError("7.jpg: cannot be read") from OSError(28, "full")
    if path.stem == "8":
        raise OfTwoThings("this", "that")
    return int(path.stem)


def together(ready: Sequence[int]) -> list[int]:
    if 11 in ready:
        raise RuntimeError("model 11")
    return [10 * number for number in ready]


def draw(_path: Path, ready: int, output: int) -> tuple[int, int]:
    return ready + output, os.getpid()


@pytest.mark.parametrize("batch", [1, 4])
def test_results_in_order_and_every_failure_its_own(batch):
    """7 and 8 cannot be read, 11 fails in the model and takes its batch down with it."""
    found = list(ForkedFlow(Flow(read, together, draw, batch, 0), 2).over(PATHS))
    assert [path for path, _ in found] == PATHS
    done = {int(path.stem): outcome for path, outcome in found if not isinstance(outcome, Exception)}
    assert {number: value for number, (value, _) in done.items()} == {
        number: 11 * number for number in range(18) if number not in (7, 8, 11)
    }
    processes = {process for _, process in done.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    failed = {int(path.stem): outcome for path, outcome in found if isinstance(outcome, Exception)}
    assert {number: (type(error), str(error)) for number, error in failed.items()} == {
        7: (UserError, "7.jpg: cannot be read"),
        8: (UserError, "OfTwoThings: this and that"),
        11: (RuntimeError, "model 11"),
    }
    cause = failed[7].__cause__
    assert isinstance(cause, OSError)
    assert cause.errno == 28, "by which a full disk is known"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_in_work_at_a_signal_is_not_lost(number, tmp_path):
    """Two processes of two batches each at most have begun more than the first when it comes back."""

    def note(path: Path) -> Path:
        (tmp_path / path.stem).touch()
        time.sleep(0.01)
        return path

    flow: Flow[Path, Path, Path, str] = Flow(note, list, lambda path, _ready, _output: path.stem, 1, 0)
    found: list[str] = []

    def take_and_stop() -> None:
        for _, outcome in ForkedFlow(flow, 2).over(PATHS):
            assert isinstance(outcome, str)
            if not found:
                signal.raise_signal(number)
            found.append(outcome)

    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            take_and_stop()
    finally:
        signal.signal(number, before)
    assert found == [str(number) for number in range(len(found))]
    assert len(found) < len(PATHS)
    assert {path.name for path in tmp_path.iterdir()} == set(found)


def test_a_process_that_is_killed():
    def end(path: Path) -> Path:
        if path.stem == "5":
            time.sleep(0.5)  # what came before is sent by a thread of this process
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    flow: Flow[Path, Path, Path, str] = Flow(end, list, lambda path, _ready, _output: path.stem, 1, 0)
    with pytest.raises(UserError, match=r"5\.jpg.*: a process that works on pictures was killed.*--workers 0"):
        list(ForkedFlow(flow, 2).over(PATHS))
