"""One case in a forked child, with limits on time and memory and a canary for execution.

The process that forks has imported everything, so that a case costs what it does and no more. A case ends
well if the program refuses it in one line or takes it; every other end has a name in ``BAD``.
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SECONDS = 60.0
MEMORY = 1500 << 20  # bytes of a child's resident memory, what it shares with its parent included
RESERVE = 4 << 30  # bytes it may allocate beyond, so that a runaway does not take the machine along
FILE_BYTES = 2 << 30  # of one file that it may write
BAD = ("traceback", "crash", "hang", "memory", "execution", "silent")
CANARY = "EXECUTED"
WATCHED = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn", "subprocess.Popen")
OWN_PROCESS = "cogview.data.decode_worker"

Work = Callable[[], int | None]


@dataclass(frozen=True)
class Outcome:
    """How a case ended: ``fine``, ``refused`` or one of ``BAD``; what it said; bytes at most.

    seconds: until it ended; processor: of a core that it used.
    """

    end: str
    said: str
    seconds: float
    memory: int
    processor: float

    @property
    def bad(self) -> bool:
        """Whether the program did what it never may."""
        return self.end in BAD


def command(arguments: Sequence[str]) -> Work:
    """``cogview`` with these arguments."""
    from cogview.cli.app import main

    return lambda: main(list(arguments))


def run(work: Work, folder: Path, seconds: float = SECONDS, memory: int = MEMORY) -> Outcome:
    """Run ``work`` in a child whose working directory is ``folder``."""
    sys.stdout.flush()
    sys.stderr.flush()
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _child(work, folder)
    status, used, peak, why = _watch(child, began, seconds, memory)
    took = time.monotonic() - began
    said = _tail(folder / "stderr")
    return Outcome(_end(status, why, said, folder), said, took, peak, used.ru_utime + used.ru_stime)


def _child(work: Work, folder: Path) -> None:
    """Never returns."""
    code = 1
    try:
        _confine(folder)
        code = work() or 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                code = 99
        os._exit(code & 0xFF)


def _confine(folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    out = os.open("stdout", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    err = os.open("stderr", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    none = os.open(os.devnull, os.O_RDONLY)
    for new, old in ((none, 0), (out, 1), (err, 2)):
        os.dup2(new, old)
    sys.stdout = io.TextIOWrapper(
        io.FileIO(1, "w", closefd=False), "utf-8", errors="strict", write_through=True
    )
    sys.stderr = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), "utf-8", errors="strict", write_through=True
    )
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ.update(
        TMPDIR=str(folder / "tmp"), COGVIEW_HOME=str(folder / "home"), HOME=str(folder / "home")
    )
    import tempfile

    tempfile.tempdir = None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_DATA, (RESERVE, RESERVE))
    sys.addaudithook(_audit(folder))


def _audit(folder: Path) -> Callable[[str, tuple[Any, ...]], None]:
    """Notes a program that is started, and a file that is written elsewhere."""
    canary, inside = folder / CANARY, str(folder)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event in WATCHED and OWN_PROCESS not in str(given):
            note(f"{event} {given}")
        elif event == "open" and isinstance(given[0], str) and _writes(given[1], given[2]):
            place = os.path.abspath(given[0])
            if not place.startswith((inside, "/dev/", "/proc/")):
                note(f"wrote {place}")

    def note(what: str) -> None:
        handle = os.open(canary, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(handle, what.encode(errors="replace") + b"\n")
        os.close(handle)

    return hook


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))


def _watch(
    child: int, began: float, seconds: float, memory: int
) -> tuple[int, resource.struct_rusage, int, str]:
    """The child's status, what it used, its largest memory, and why it was ended, if it was."""
    page, pause, why, peak = resource.getpagesize(), 0.002, "", 0
    while True:
        found, status, used = os.wait4(child, os.WNOHANG)
        if found:
            _end_group(child)
            return status, used, max(peak, used.ru_maxrss << 10), why
        with contextlib.suppress(OSError, IndexError):
            peak = max(peak, int(Path(f"/proc/{child}/statm").read_text().split()[1]) * page)
        waited = time.monotonic() - began - _queued(child)
        if not why and (waited > seconds or peak > memory):
            why = "memory" if peak > memory else "hang"
            _end_group(child)
        time.sleep(pause)
        pause = min(0.02, pause * 1.2)


def _queued(child: int) -> float:
    """Seconds that a process was ready and another one had the processor: a busy machine is not its fault."""
    try:
        return int(Path(f"/proc/{child}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def _end_group(child: int) -> None:
    """End the child and what it started."""
    for ended in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            ended(child, signal.SIGKILL)


def _tail(path: Path, most: int = 6000) -> str:
    data = path.read_bytes() if path.exists() else b""
    return data[-most:].decode("utf-8", "replace")


def _end(status: int, why: str, said: str, folder: Path) -> str:
    if (folder / CANARY).exists():
        return "execution"
    if why:
        return why
    if os.WIFSIGNALED(status):
        return "crash"
    code = os.WEXITSTATUS(status)
    if code == 99 or "Traceback (most recent call last)" in said:
        return "traceback"
    if "out of memory" in said.lower():
        return "memory"
    if code == 0:
        return "fine"
    return "refused" if said.strip() else "silent"


def empty(folder: Path) -> Path:
    """The folder, new."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
