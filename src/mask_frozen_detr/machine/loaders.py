"""Processes that load pictures, or work on them, and are killed: mostly by a system that has no memory left.

PyTorch tells of it from a signal's handler, which raises wherever the main process is just then, and not of what the
process was at. Here it is told where the next pictures are waited for, with the pictures.
"""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mask_frozen_detr.errors import UserError, printable, reason, shorten

Item = TypeVar("Item")
Key = int | tuple[int, int]  # of an item: its number, which may be the first of two


class Watched(Dataset[Item], Generic[Item]):
    """A data set of pictures that notes which one each loading process is at.

    paths: of the pictures, by number. workers: how many processes load them, 0 for the main one alone.
    """

    def __init__(self, dataset: Dataset[Item], paths: Sequence[Path], workers: int):
        self.dataset, self.paths, self.workers = dataset, paths, workers
        self.at = torch.full((max(1, workers),), -1).share_memory_()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Key) -> Item:
        process = get_worker_info()
        if process is not None:
            self.at[process.id] = key if isinstance(key, int) else key[0]
        return self.dataset[key]

    def load(self, remedy: str, **options: Any) -> Iterator[Any]:
        """What a DataLoader of these options gives.

        Raises UserError, at the next of them, where a loading process is gone. remedy: what to do about it.
        """
        before = _child_handler()
        batches = iter(DataLoader(self, num_workers=self.workers, **options))
        _handle_children(signal.SIG_DFL)  # without PyTorch's handler the loader looks itself, every five seconds
        died = False
        try:
            yield from batches
        except (RuntimeError, OSError, EOFError) as error:
            died = _is_death(error)
            if not died:
                raise
            at = [printable(str(self.paths[number])) for number in self.at.tolist() if number >= 0]
            raise UserError(
                f"{shorten(at) or 'before the first picture'}: a process that works on pictures was killed while it "
                f"was there ({reason(error)}); mostly the machine has no memory left: {remedy}"
            ) from error
        finally:
            if not died:  # else the signal may still be on its way, and `before` may be PyTorch's
                _handle_children(before)


def _is_death(error: BaseException) -> bool:
    """Whether it says that a loading process is gone: PyTorch's text, or what a connection to it ends with."""
    if isinstance(error, FileNotFoundError):  # a socket's, which is gone with the process, has no name
        return error.filename is None
    gone = isinstance(error, ConnectionError | EOFError) and not isinstance(error, BrokenPipeError)
    return gone or (isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"))


def _child_handler() -> Any:
    """What is called when a child process ends."""
    return signal.SIG_DFL if sys.platform == "win32" else signal.getsignal(signal.SIGCHLD)


def _handle_children(handler: Any) -> None:
    """Call `handler` when a child process ends, where the system and this thread can set that."""
    if sys.platform != "win32" and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
