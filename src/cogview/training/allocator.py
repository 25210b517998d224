"""Keep the memory that a training step frees for the next step.

glibc's ``free`` immediately returns large blocks to the kernel, and the next step faults them in again page
by page. On two CPU cores that took a tenth of a step of the default model's recipe (benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks in this process; True if it does (Linux with glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(libc.mallopt(_TRIM_THRESHOLD, _LARGEST))
