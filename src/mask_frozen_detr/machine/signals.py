"""Ctrl-C and SIGTERM that wait for a good moment: the first is noted, the second ends the process at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from mask_frozen_detr.machine.processes import processes

WAITING = (signal.SIGINT, signal.SIGTERM)
CODES = {signal.SIGINT: 1.0, signal.SIGTERM: 1000.0}  # sums of them tell which: up to 999 processes


class StopSignals:
    """Within it the first SIGINT or SIGTERM is only noted; the handlers of before serve the next one.

    received: what all processes have agreed on. Outside the main thread, where no handler can be set, and for signals
    that the process ignores (under `nohup`) nothing changes.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._own: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in WAITING:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: not set from Python
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @property
    def noted(self) -> float:
        """The exit code of the signal that this process got, 0 for none: what `agreed` sums over processes."""
        return 0.0 if self._own is None else CODES[self._own]

    def agreed(self, summed: Tensor) -> bool:
        """Whether to stop; of several processes as the sum of what each has noted says, which is the same in all."""
        if processes().num_processes == 1:
            self.received = self._own
        elif codes := int(summed):
            self.received = signal.SIGTERM if codes >= CODES[signal.SIGTERM] else signal.SIGINT
        return self.received is not None

    def agree(self, device: torch.device) -> None:
        """`agreed` on what each process has noted until now; all must call it."""
        noted = torch.tensor(self.noted)
        self.agreed(noted if processes().num_processes == 1 else reduce(noted.to(device), "sum"))

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Signals are obeyed at once, during what can be ended at any moment; of several processes none ends alone."""
        if processes().num_processes > 1:
            yield
            return
        if self._own is not None:
            deliver(self._own)
        before = tuple(self._before)
        self._restore()
        try:
            yield
        finally:
            for number in before:
                self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._own = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def deliver(number: signal.Signals) -> None:
    """Let a noted signal do what it would have done; raises KeyboardInterrupt where its handler returns."""
    signal.raise_signal(number)
    raise KeyboardInterrupt(f"stopped by {number.name}")


def leave_signals_to_parent(_worker: int = 0) -> None:
    """Makes a loader's worker deaf to Ctrl-C and SIGTERM: they reach its parent as well, which ends it."""
    for number in WAITING:
        signal.signal(number, signal.SIG_IGN)
