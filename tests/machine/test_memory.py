"""Freed memory stays with the process."""

import platform
import resource
from multiprocessing.connection import Connection

import pytest
import torch
from nursery import NURSERY

from mask_frozen_detr.machine.memory import keep_freed_memory


def count_faults(keep: bool, result: Connection) -> None:
    """What a child does: pages that it had to ask for in order to make large tensors."""
    if keep:
        assert keep_freed_memory()
    faults = [0]
    for _ in range(4):  # the heap has grown to its size after a few
        for _ in range(4):
            torch.zeros(16 << 20)  # 64 MB
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    result.send(faults[-1] - faults[-2])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to")
def test_large_tensors_reuse_what_others_freed():
    def faults(keep: bool) -> int:
        ours, theirs = NURSERY.Pipe(duplex=False)
        child = NURSERY.Process(target=count_faults, args=(keep, theirs))
        child.start()
        child.join(timeout=120)
        assert child.exitcode == 0
        return ours.recv()

    assert faults(True) < 1000 < faults(False)  # pages of 4 kB, or of 2 MB where the system gives such
