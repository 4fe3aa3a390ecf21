"""Three stages that overlap: order, batches, failures, and that the model never waits."""

import signal
import threading
import time
from collections.abc import Generator, Sequence
from typing import cast

import pytest

from mask_frozen_detr.machine.flow import Flow


class Fails(Exception):
    pass


def refuse(number: int, bad: set[int], what: str) -> int:
    if number in bad:
        raise Fails(f"{what} {number}")
    return number


@pytest.mark.parametrize(("threads", "lanes"), [(0, 0), (1, 0), (3, 0), (1, 2), (2, 3), (0, 2)])
@pytest.mark.parametrize("batch", [1, 4])
def test_results_in_order_and_every_failure_its_own(batch, threads, lanes):
    """7 cannot be read, 11 fails in the model and takes its batch down with it, 14 cannot be drawn."""
    sizes = []

    def together(ready: Sequence[int]) -> Sequence[int]:
        sizes.append(len(ready))
        return [10 * refuse(number, {11}, "model") for number in ready]

    flow: Flow[int, int, int, int] = Flow(
        lambda number: refuse(number, {7}, "read"),
        together,
        lambda item, _ready, output: refuse(output + item, {14 * 11}, "draw"),
        batch,
        threads,
        lanes,
    )
    found = list(flow.over(range(18)))
    assert [item for item, _ in found] == list(range(18))
    outcomes = {item: outcome for item, outcome in found if not isinstance(outcome, Exception)}
    assert outcomes == {item: 11 * item for item in range(18) if item not in (7, 11, 14)}
    said = {item: str(outcome) for item, outcome in found if isinstance(outcome, Exception)}
    assert said == {7: "read 7", 11: "model 11", 14: "draw 154"}
    assert max(sizes) == batch


def test_reading_and_drawing_overlap_with_the_model():
    """The second item is read while the first is with the model, or nobody would ever open its gate."""
    read = threading.Event()

    def prepare(item: int) -> int:
        if item == 1:
            read.set()
        return item

    def together(ready: Sequence[int]) -> Sequence[int]:
        assert read.wait(10)
        return ready

    flow: Flow[int, int, int, int] = Flow(prepare, together, lambda item, _ready, _output: item, 1, 1)
    assert [outcome for _, outcome in flow.over(range(3))] == [0, 1, 2]


def test_lanes_compute_at_once_and_results_stay_in_order():
    """Nobody enters the model alone, and of each two the first is the slower one."""
    pair = threading.Barrier(2)

    def together(ready: Sequence[int]) -> Sequence[int]:
        pair.wait(10)
        time.sleep(0.01 * (ready[0] % 2 == 0))
        return ready

    flow: Flow[int, int, int, int] = Flow(int, together, lambda item, _ready, output: item + output, 1, 2, 2)
    assert list(flow.over(range(8))) == [(item, 2 * item) for item in range(8)]


class Stop(BaseException):
    """As KeyboardInterrupt, which pytest would take for its own."""


def test_lanes_without_other_threads_do_all_of_an_item():
    """Two items are read at once, each by the thread that computes and draws it."""
    pair = threading.Barrier(2)

    def prepare(item: int) -> int:
        pair.wait(10)
        return threading.get_ident()

    flow: Flow[int, int, int, set[int]] = Flow(
        prepare,
        lambda _ready: [threading.get_ident()],
        lambda _item, ready, output: {ready, output, threading.get_ident()},
        1,
        0,
        2,
    )
    threads = [outcome for _, outcome in flow.over(range(8)) if isinstance(outcome, set)]
    assert [len(each) for each in threads] == [1] * 8
    assert threading.get_ident() not in set.union(*threads)
    assert len(set.union(*threads)) == 2


def test_what_is_in_the_lanes_at_a_signal_is_not_lost():
    """The caller's thread gets it as it waits for the first two; those behind them are not begun any more."""
    begun: list[int] = []
    both, go_on = threading.Barrier(2), threading.Event()

    def together(ready: Sequence[int]) -> Sequence[int]:
        begun.extend(ready)
        if both.wait(10) == 0:
            time.sleep(0.1)  # until the caller waits
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        assert go_on.wait(10)
        return ready

    def stop(*_: object) -> None:
        threading.Timer(0.1, go_on.set).start()
        raise Stop

    flow: Flow[int, int, int, int] = Flow(int, together, lambda item, _ready, output: item + output, 1, 1, 2)
    found: list[tuple[int, int | Exception]] = []
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(Stop):
            found.extend(flow.over(range(9)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert sorted(begun) == [0, 1]
    assert found == [(0, 0), (1, 2)]


@pytest.mark.parametrize(("batch", "lanes"), [(2, 0), (1, 2)])
def test_no_more_is_read_than_memory_shall_hold(batch, lanes):
    begun: list[int] = []

    def note(item: int) -> int:
        begun.append(item)
        return item

    flow: Flow[int, int, int, int] = Flow(
        note, lambda ready: list(ready), lambda item, _ready, _output: item, batch, lanes, lanes
    )
    results = flow.over(range(100))
    next(results)
    assert len(begun) <= 10
    cast(Generator, results).close()
