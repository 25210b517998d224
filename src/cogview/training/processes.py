"""Launch a run's processes on this machine (``cogview train --processes``), forward signals, wait for all.

Does what ``torchrun`` does on one machine, without restarts and without its error report after every user
error: each process gets its rank from the environment. Each has its own session, so that Ctrl-C in a terminal
reaches it once, through this process.
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

FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
GRACE = 20.0  # seconds for the others to end by themselves after one has failed


def run_processes(command: Sequence[str], count: int) -> int:
    """Run ``command`` as ``count`` ranks; returns 0, or the exit code of the first that failed.

    ``OMP_NUM_THREADS`` divides the cores evenly, unless it is set.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    with _forwarding(ranks):
        port = _free_port()
        for rank in range(count):
            ranks.append(
                subprocess.Popen(command, env=_environment(rank, count, port), start_new_session=True)
            )
        try:
            return _wait(ranks)
        finally:
            for process in ranks:
                process.kill()
                process.wait()


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // count)
    variables = {
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
        **{name: str(value) for name, value in variables.items()},
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, deadline = 0, float("inf")
    while time.monotonic() < deadline:
        codes = [process.poll() for process in ranks]
        if not failed and (failed := next((code for code in codes if code), 0)):
            deadline = time.monotonic() + GRACE
        if all(code is not None for code in codes):
            break
        time.sleep(0.05)
    return 128 - failed if failed < 0 else failed


@contextmanager
def _forwarding(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Forward every signal that stops a run to all its processes."""

    def forward(number: int, frame: FrameType | None) -> None:
        if os.name == "nt" and number == signal.SIGINT:
            return  # the console has already interrupted the processes
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    numbers = [getattr(signal, name) for name in FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
