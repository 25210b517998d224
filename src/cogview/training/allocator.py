"""Keeping the memory that a training step frees for the next one.

glibc's ``free`` hands large blocks back to the kernel at once, and the next step gets them again page by
page. On two CPU cores that was a tenth of a step of the default model's recipe (benchmarks/README.md).
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for this process; True where it does (Linux with glibc)."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(libc.mallopt(_TRIM_THRESHOLD, _LARGEST))
