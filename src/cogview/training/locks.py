"""A lock on a training directory, so that only one process writes to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout  # a dependency of PyTorch

from cogview.errors import CogViewError

LOCK = "running.lock"


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Lock a directory; raises CogViewError if another process trains in it.

    The lock is released when the process ends, however it ends. On a file system without locks nothing is
    locked.
    """
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CogViewError(
            f"{directory}: another process trains there; wait for it, or choose another directory"
        ) from None
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
