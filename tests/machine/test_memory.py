"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from mask_frozen_detr.machine.memory import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(4):  # the heap has grown to its size after a few
    before = faults()
    for _ in range(4):
        torch.zeros(16 << 20)  # 64 MB
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told to")
def test_large_tensors_reuse_what_others_freed():
    def faults(choice: str) -> int:
        return int(subprocess.run([sys.executable, "-c", FAULTS, choice], check=True, capture_output=True).stdout)

    assert faults("keep") < 1000 < faults("leave")  # pages of 4 kB, or of 2 MB where the system gives such
