"""Keep freed memory: on a CPU, training allocates and frees the same large tensors at every step.

glibc hands blocks over some 128 KiB back to the system when they are freed, and each step then pays for mapping and
zeroing them again, page by page. Told to keep them, the same training step takes about two thirds of the time.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Set glibc's malloc so for this process. Returns False, and does nothing, where the C library is another."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(
        mallopt(option, value) == 1
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 64 << 20))
    )
