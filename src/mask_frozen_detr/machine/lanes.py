"""Several forward passes at once on a CPU: threads that compute as the one that began them, on a share of the cores."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def shared_threads(lanes: int) -> Iterator[None]:
    """Within it torch's threads are shared out: a thread that begins computes with one in `lanes` of them.

    torch hands a new thread the number that was set last.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // lanes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_precision_of_now(work: Callable[[Given], Made]) -> Callable[[Given], Made]:
    """`work` for other threads in the precision that this one has on a CPU: autocast is each thread's own."""
    half, enabled = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

    def done(given: Given) -> Made:
        with torch.autocast("cpu", half, enabled):
            return work(given)

    return done
