"""Who works on what, among processes that share nothing but a folder.

A claim is a file that only one process can create, with a heartbeat: while its owner lives, a thread touches
it. One that was not touched for :data:`STALE` seconds is taken over, by renaming it first, which only one
process can. Nothing is ever waited for.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

BEAT, STALE = 10.0, 120.0


class Claim:
    """A claim on ``path``; use as a context manager around the work, after :func:`claim` gave it."""

    def __init__(self, path: Path, beat: float = BEAT) -> None:
        self.path, self._beat = path, beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True, name="claim")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(timeout=5)
        self.path.unlink(missing_ok=True)

    def _live(self) -> None:
        while not self._over.wait(self._beat):
            try:
                os.utime(self.path)
            except OSError:  # the folder is gone or read-only; the work will say so itself
                return


def claim(path: Path, stale: float = STALE) -> Claim | None:
    """A claim on ``path``, or None where another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_stale(path, stale):
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        try:
            path.rename(aside)
        except OSError:  # another process took it over
            return None
        aside.unlink(missing_ok=True)
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return None
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(f"{socket.gethostname()} {os.getpid()}\n")
    return Claim(path, min(BEAT, stale / 4))


def _is_stale(path: Path, stale: float) -> bool:
    """Whether a claim was left by a process that is gone: on this machine at once, elsewhere by its age."""
    try:
        age = _now(path) - path.stat().st_mtime
        host, _, number = path.read_text("utf-8").strip().partition(" ")
    except (OSError, UnicodeDecodeError):
        return False
    if host == socket.gethostname() and number.isdecimal() and not _lives(int(number)):
        return True
    return age > stale


def _now(path: Path) -> float:
    """The time by the clock of the file system, which may not be this machine's."""
    probe = path.with_name(f".now-{uuid.uuid4().hex[:8]}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
