"""Processes that load pictures and are killed: told where the next picture is waited for, and nowhere else."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from mask_frozen_detr.errors import UserError
from mask_frozen_detr.machine.loaders import Watched

PATHS = [Path(f"{number}.jpg") for number in range(9)]


class Numbers(Dataset[torch.Tensor]):
    """Tensors, which come over a connection to the process that made them.

    deadly: the process that loads this one is killed: at a picture, as by a system without memory, and not while it
    holds a lock of the queue's, which nobody would ever give back.
    """

    def __init__(self, deadly: int | None = None):
        self.deadly = deadly

    def __getitem__(self, key: int) -> torch.Tensor:
        if key == self.deadly:
            time.sleep(0.5)  # the one before is sent by a thread of this process
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.tensor([key])


@pytest.fixture
def raising_handler():
    """As PyTorch's: it raises wherever the process is when a child ends."""

    def handler(_number, _frame):
        raise RuntimeError("DataLoader worker is killed by signal")

    before = signal.signal(signal.SIGCHLD, handler)
    yield handler
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("raising_handler")
def test_a_death_is_told_with_the_next_picture():
    loaded = Watched(Numbers(deadly=1), PATHS, 1).load("do less", batch_size=None)
    assert next(loaded) == 0
    with pytest.raises(UserError, match=r"1\.jpg: a process that works on pictures was killed.*do less"):
        list(loaded)
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)  # another child's end calls the handler


def test_errors_of_who_uses_the_pictures_are_none_of_a_loader():
    def use():
        for _ in Watched(Numbers(), PATHS, 1).load("do less", batch_size=None):
            raise ConnectionError("a tracker's")

    with pytest.raises(ConnectionError, match="a tracker's"):
        use()


def test_the_handler_of_before_is_there_again(raising_handler):
    assert list(Watched(Numbers(), PATHS, 2).load("do less", batch_size=None, sampler=range(9))) == list(range(9))
    assert signal.getsignal(signal.SIGCHLD) == raising_handler
