"""A directory that a training writes belongs to one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout  # a dependency of PyTorch

from cogview.errors import CogViewError

LOCK = "running.lock"


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Have a directory to oneself; CogViewError where another process trains in it.

    The lock goes with the process, however it ends. Where the file system has no locks there is none.
    """
    lock = FileLock(directory / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise CogViewError(
            f"{directory}: another process trains there; wait for it, or choose another place"
        ) from None
    except (NotImplementedError, OSError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
