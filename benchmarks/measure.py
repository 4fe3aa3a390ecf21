"""Times and peak memory: warm, device-synchronised, medians over rounds in which all contestants take turns.

On a GPU, and on a CPU with several threads, the clock is the wall's. With one thread it is the processor's: the same on
a machine that has nothing else to do, and still right on one that has.
"""

import gc
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

LEAST_SECONDS = 0.1  # of one sample: shorter work is called several times in it
MOST_CALLS = 200


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, over the rounds."""

    median: float
    least: float
    most: float
    rounds: int
    calls: int  # a round

    def __str__(self) -> str:
        return f"{self.median:.2f}"


def describe_error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def takes_processor_time(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


def timed(work: Callable[[], Any], device: torch.device, calls: int = 1) -> float:
    """Seconds a call."""
    clock = time.process_time if takes_processor_time(device) else time.perf_counter
    synchronise(device)
    began = clock()
    for _ in range(calls):
        work()
    synchronise(device)
    return (clock() - began) / calls


def interleaved(
    works: Mapping[str, Callable[[], Any]], device: torch.device, rounds: int, until: float = math.inf
) -> dict[str, Timing | str]:
    """Each work's timing, or its error.

    Two calls of each warm it up; then every round calls all of them, in an order that turns. Rounds end early once
    `time.perf_counter()` has passed `until`, but one is always run.
    """
    found: dict[str, Timing | str] = {}
    calls: dict[str, int] = {}
    for name, work in works.items():
        try:
            timed(work, device)
            calls[name] = min(MOST_CALLS, math.ceil(LEAST_SECONDS / max(1e-9, timed(work, device))))
        except Exception as error:  # one contestant less, the others go on
            found[name] = describe_error(error)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        if number and time.perf_counter() > until:
            break
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            samples[name].append(1000 * timed(works[name], device, calls[name]))
    for name, times in samples.items():
        found[name] = Timing(statistics.median(times), min(times), max(times), len(times), calls[name])
    return found


def peak_bytes(work: Callable[[], Any], device: torch.device, baseline: int | None = None) -> int | None:
    """Most bytes that torch had allocated on a GPU during a call, above `baseline` or what was there before.

    None on a CPU, where nothing counts them.
    """
    if device.type != "cuda":
        return None
    free_memory(device)
    synchronise(device)
    before = torch.cuda.memory_allocated(device) if baseline is None else baseline
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronise(device)
    return torch.cuda.max_memory_allocated(device) - before


def waits(work: Callable[[], Any], device: torch.device) -> int | None:
    """How often a call makes the host wait for a GPU, as torch's debug mode sees it. None on a CPU."""
    if device.type != "cuda":
        return None
    synchronise(device)
    before = torch.cuda.get_sync_debug_mode()
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            work()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing" in str(warning.message) for warning in seen)


def allocated(device: torch.device) -> int:
    """Bytes that torch holds on a GPU now; 0 on a CPU."""
    free_memory(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def rounded(value: float | None, digits: int = 3) -> float | None:
    """So many significant digits, for tables."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")


def gibibytes(count: int | None) -> float | None:
    return None if count is None else rounded(count / 2**30)
