"""Tries of a kind, one after another: each in forks of its own, or many in one that is watched."""

import multiprocessing
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random

from campaign.bench import Bench, Kind, Try
from campaign.commands import SECONDS, WAITED, Command, stay_here

BATCH = 50  # tries that one process does


def attempt(kind: Kind, bench: Bench, seed: int, number: int, keep: bool = False) -> Try:
    """One try. keep: leave its folder, and say where."""
    folder = Path(tempfile.mkdtemp(prefix=f"{kind.name}-{number}-", dir=bench.root))
    try:
        return kind.attempt(bench, Random(f"{kind.name} {seed} {number}"), folder)
    except Exception:  # the campaign itself: to be mended, not to be passed over
        return Try("", [f"the campaign fell short: {traceback.format_exc()}"])
    finally:
        if keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def attempts(kind: Kind, bench: Bench, seed: int, numbers: Sequence[int], until: float) -> Iterator[tuple[int, Try]]:
    """Until a moment at the latest."""
    left = list(numbers)
    while left and time.monotonic() < until:
        if kind.forks:
            yield left[0], attempt(kind, bench, seed, left.pop(0))
            continue
        for number, found in _together(kind, bench, seed, left[:BATCH], until):
            left.remove(number)
            yield number, found


def _together(kind: Kind, bench: Bench, seed: int, numbers: Sequence[int], until: float) -> Iterator[tuple[int, Try]]:
    """In one process. One that falls short there, or that ends or holds up the process, is tried again alone."""
    here, there = multiprocessing.Pipe(duplex=False)

    def work() -> None:
        stay_here()
        for number in numbers:
            if time.monotonic() < until:
                there.send((number, attempt(kind, bench, seed, number)))

    worker = Command(work, bench.root)
    there.close()
    done = []
    while (found := _next(worker, here)) is not None:
        number, one = found
        done.append(number)
        yield number, _alone(kind, bench, seed, number, one.faults) if one.faults else one
    ended = worker.wait(SECONDS if here.closed else 0)
    rest = [number for number in numbers if number not in done]
    if rest and (ended.late or ended.code):
        said = f"a process of several tries ended with {ended.code}, late: {ended.late}: {ended.last_line}"
        yield rest[0], _alone(kind, bench, seed, rest[0], [said])


def _next(worker: Command, here: "multiprocessing.connection.Connection") -> tuple[int, Try] | None:
    """What the worker has found next. None at its end, when the pipe is closed, or where one try takes too long."""
    began, computed = time.monotonic(), worker.computed()
    while not here.poll(0.2):
        if worker.computed() - computed > SECONDS or time.monotonic() - began > WAITED * SECONDS:
            return None
    try:
        return here.recv()
    except EOFError:
        here.close()
        return None


def _alone(kind: Kind, bench: Bench, seed: int, number: int, faults: Sequence[str]) -> Try:
    """What a try comes to in processes of its own, or that it fell short after others only."""
    again = attempt(kind, bench, seed, number)
    if again.faults:
        return again
    return Try(again.what, [f"after other tries in one process only: {fault}" for fault in faults])
