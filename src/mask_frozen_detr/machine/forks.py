"""A flow of pictures in processes that are forked: each has a core and the model as its parent had loaded it.

On a CPU a picture through a small detector takes less of two cores as one picture on each than as one on both, and
Python's lock, for which threads queue, is each process's own.
"""

import pickle
import sys
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset

from mask_frozen_detr.errors import UserError, reason
from mask_frozen_detr.machine.flow import Flow
from mask_frozen_detr.machine.loaders import Watched
from mask_frozen_detr.machine.processes import usable_cores
from mask_frozen_detr.machine.signals import StopSignals, deliver, leave_signals_to_parent

Result = TypeVar("Result")
# A picture with its result, or with what went wrong on it and the cause of that, which pickling leaves behind.
Sent = tuple[Path, Result | Exception, BaseException | None]

MOST = 16  # processes: each takes the memory of a picture in the model


def forks_for(threads: int) -> int:
    """Forked processes that take the place of so many threads, a core each; 0 where the system has no safe fork.

    PyTorch's loaders are forked by default where this says so: not on macOS, nor on Windows.
    """
    return min(threads, usable_cores(), MOST) if sys.platform == "linux" else 0


class ForkedFlow(Generic[Result]):
    """Pictures through a flow without threads of its own, several at once, in their order.

    processes: how many. Results are pickled on their way.
    """

    def __init__(self, flow: Flow[Path, Any, Any, Result], processes: int):
        self.flow, self.processes = flow, processes

    def over(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Result | Exception]]:
        """Each picture with its result, or with what went wrong on it, in their order.

        What is in work at the first SIGINT or SIGTERM is not lost; nothing else is begun then. Raises UserError where
        a process is killed.
        """
        batches = [paths[start : start + self.flow.batch] for start in range(0, len(paths), self.flow.batch)]
        work = Watched(_Batches(self.flow, batches), [batch[0] for batch in batches], min(self.processes, len(batches)))
        with StopSignals() as stop:
            numbers = takewhile(lambda _: not stop.noted, range(len(batches)))
            for sent in work.load(
                "--workers 0 needs less",
                sampler=numbers,
                batch_size=None,
                collate_fn=list,
                worker_init_fn=leave_signals_to_parent,
                multiprocessing_context="fork",
            ):
                for path, outcome, cause in sent:
                    if isinstance(outcome, Exception):
                        outcome.__cause__ = cause
                    yield path, outcome
            stop.agree(torch.device("cpu"))
        if stop.received is not None:
            deliver(stop.received)


class _Batches(Dataset[list[Sent]]):
    """What comes of each batch of pictures."""

    def __init__(self, flow: Flow[Path, Any, Any, Any], batches: Sequence[Sequence[Path]]):
        self.flow, self.batches = flow, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> list[Sent]:
        return [_to_send(path, outcome) for path, outcome in self.flow.over(self.batches[number])]


def _to_send(path: Path, outcome: Any) -> Sent:
    """An error that cannot be pickled goes as its text."""
    if not isinstance(outcome, Exception):
        return path, outcome, None
    try:
        pickle.loads(pickle.dumps((outcome, outcome.__cause__)))
    except Exception:
        return path, UserError(reason(outcome)), None
    return path, outcome, outcome.__cause__
