"""A run's processes on this machine, ``cogview train --processes``: start, pass signals on, wait for all.

What ``torchrun`` does for one machine, without its restarts and without its own report below every mistake:
each process learns from its environment who it is. They are a session of their own, so that Ctrl-C in a
terminal reaches them once, through here.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

PASSED_ON = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
GRACE = 20.0  # seconds for the others to end by themselves once one has failed


def run_processes(command: Sequence[str], count: int) -> int:
    """Run ``command`` as ``count`` ranks; 0, or the exit code of the first that failed.

    Cores are shared out evenly by ``OMP_NUM_THREADS``, unless it is set.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    with _passing_on(ranks):
        address = _free_port()
        for rank in range(count):
            ranks.append(
                subprocess.Popen(command, env=_environment(rank, count, address), start_new_session=True)
            )
        try:
            return _wait(ranks)
        finally:
            for process in ranks:
                process.kill()
                process.wait()


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // count)
    told = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_PORT": port,
    }
    return {
        "OMP_NUM_THREADS": str(threads),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        **{name: str(value) for name, value in told.items()},
    }


def _free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, until = 0, float("inf")
    while time.monotonic() < until:
        codes = [process.poll() for process in ranks]
        if not failed and (failed := next((code for code in codes if code), 0)):
            until = time.monotonic() + GRACE
        if all(code is not None for code in codes):
            break
        time.sleep(0.05)
    return 128 - failed if failed < 0 else failed


@contextmanager
def _passing_on(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Give every signal that ends or saves a run to all its processes."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        if os.name == "nt" and number == signal.SIGINT:
            return  # the console has interrupted the processes already
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    numbers = [getattr(signal, name) for name in PASSED_ON if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
