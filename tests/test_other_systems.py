"""What Windows and macOS lack is missing here on purpose: nothing of POSIX alone is needed.

No test of this project has run on them from this file; it keeps what only POSIX has behind a fallback.
"""

from __future__ import annotations

import ast
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cogview.checkpoints import family_writing
from cogview.cli.generate import name_for
from cogview.data.blocks import joining
from cogview.data.decode_worker import limit_memory
from cogview.files import replace_directory
from cogview.training.checkpoint.directory import flush

SOURCE = Path(__file__).parents[1] / "src" / "cogview"
MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty"}
OS = """fork forkpty getuid geteuid getgid getegid getloadavg getpgid getpriority killpg mkfifo chown nice
    sched_getaffinity sched_setaffinity setpriority setsid statvfs sysconf uname wait4
    O_NONBLOCK O_CLOEXEC O_NOFOLLOW"""
SIGNALS = "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm"
ATTRIBUTES = {
    "os": set(OS.split()),
    "signal": set(SIGNALS.split()),
    "socket": {"AF_UNIX", "SO_REUSEPORT"},
}
GUARDS = ("hasattr(", "getattr(", "sys.platform", "os.name")


def unguarded(tree: ast.AST, guarded: bool = False) -> Iterator[str]:
    """What only POSIX has, used outside of a ``try`` and of a condition that asks for it."""
    for child in ast.iter_child_nodes(tree):
        inside = guarded or isinstance(child, ast.Try)
        if isinstance(child, (ast.If, ast.IfExp)):
            inside = inside or any(guard in ast.unparse(child.test) for guard in GUARDS)
        if not inside:
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names if alias.name in MODULES]
            elif isinstance(child, ast.ImportFrom):
                names = [child.module] if child.module in MODULES else []
            elif isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
                known = ATTRIBUTES.get(child.value.id, set())
                names = [f"{child.value.id}.{child.attr}"] if child.attr in known else []
            yield from (f"line {child.lineno}: {name}" for name in names)  # type: ignore[attr-defined]
        yield from unguarded(child, inside)


def test_what_only_posix_has_is_behind_a_fallback() -> None:
    found = {path.name: list(unguarded(ast.parse(path.read_text("utf-8")))) for path in SOURCE.rglob("*.py")}
    assert len(found) > 200 and {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import fcntl", 1),
        ("import os\nos.fork()", 1),
        ("try:\n    import fcntl\nexcept ImportError:\n    pass", 0),
        ("import os\nif hasattr(os, 'fork'):\n    os.fork()", 0),
        ("import os\nos.getloadavg()[0] if hasattr(os, 'getloadavg') else None", 0),
        ("import signal\nif True:\n    signal.SIGUSR1", 1),
    ],
)  # fmt: skip
def test_the_check_itself(text: str, count: int) -> None:
    assert len(list(unguarded(ast.parse(text)))) == count


WITHOUT = """
import os, pathlib, signal, sys
import torch, filelock  # they have fallbacks of their own
for name in {modules!r}:
    sys.modules[name] = None
for module, names in {attributes!r}.items():
    for name in names:
        if hasattr(sys.modules.get(module), name):
            delattr(sys.modules[module], name)
from cogview.data.blocks import joining
from cogview.data.decode_worker import limit_memory
from cogview.generation.engine import free_memory
from cogview.serving.trainings import _lock
from cogview.threads import choose
from cogview.training.progress import Signals
import cogview.training.throughput
place = pathlib.Path(sys.argv[1])
limit_memory(1 << 30)
with joining(place) as first, _lock(place) as lock, Signals():
    assert first and lock is not None
assert free_memory(torch.device("cpu")) > 0 and choose(0).threads >= 1
from cogview import CogView
print(CogView.from_pretrained(sys.argv[2]).generate("a red circle", seed=7)[0].png().hex())
"""


def test_images_are_generated_without_what_only_posix_has(tmp_path: Path) -> None:
    """The same ones, in a process in which modules, functions and signals of POSIX are missing."""
    from cogview import CogView
    from tests.generation import tiny

    family = tiny.write(tmp_path / "family")
    kept = {**ATTRIBUTES, "os": ATTRIBUTES["os"] - {"O_NONBLOCK", "O_CLOEXEC"}}  # subprocess wants them here
    attributes = {name: sorted(kept[name]) for name in ("os", "signal")}
    program = WITHOUT.format(modules=sorted(MODULES - {"posix"}), attributes=attributes)
    command = [sys.executable, "-c", program, str(tmp_path), str(family)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = CogView.from_pretrained(family).generate("a red circle", seed=7)[0].png()
    assert bytes.fromhex(done.stdout.strip()) == expected


def test_directories_are_replaced_where_names_cannot_be_exchanged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on Windows, where there is no library of the process itself."""

    def no_library(name: object) -> Any:
        raise TypeError("bad argument type for built-in operation")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "CDLL", no_library)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, "utf-8")
    [aside] = replace_directory(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old" / "file").read_text("utf-8") == "new"
    assert (aside / "file").read_text("utf-8") == "old"


def test_files_and_not_directories_are_flushed_on_windows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There a directory cannot be opened, and a file that is open for reading only cannot be flushed."""
    opened, flushed = dict[int, int](), list[int]()
    real = os.open

    def windows_open(path: Path, flags: int) -> int:
        if path.is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        handle = real(path, flags)
        opened[handle] = flags
        return handle

    def windows_fsync(handle: int) -> None:
        if opened[handle] & (os.O_RDWR | os.O_WRONLY) == 0:
            raise OSError(9, "Bad file descriptor")
        flushed.append(handle)

    path = tmp_path / "file"
    path.write_bytes(b"abc")
    monkeypatch.setattr(os, "open", windows_open)
    monkeypatch.setattr(os, "fsync", windows_fsync)
    monkeypatch.setattr(os, "name", "nt")
    flush(tmp_path)
    flush(path)
    monkeypatch.undo()
    assert len(flushed) == 1 and path.read_bytes() == b"abc"


def test_files_are_copied_where_links_are_not_to_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Windows has no `follow_symlinks` for links."""

    def no_links(source: Path, target: Path, **options: object) -> None:
        raise NotImplementedError("follow_symlinks unavailable on this platform")

    monkeypatch.setattr(os, "link", no_links)
    (tmp_path / "a").write_bytes(b"abc")
    family_writing._link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"abc"


def test_a_limit_that_is_refused_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS refuses a limit of address space."""
    resource = pytest.importorskip("resource", reason="this system has no limits")

    def refused(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refused)
    limit_memory(1 << 30)


def test_one_process_joins_at_a_time(tmp_path: Path) -> None:
    with joining(tmp_path) as first, joining(tmp_path) as second:
        assert first and not second
    with joining(tmp_path) as again:
        assert again


@pytest.mark.parametrize("prompt", ['a/b\\c:d*e?f"g<h>i|j', "CON", "一只猫。", "...", "aux.txt "])
def test_names_of_images_suit_windows(prompt: str) -> None:
    """No reserved character, no reserved name, no dot or space at the end."""
    picture = SimpleNamespace(prompt=prompt, seed=7, index=0)
    name = name_for(picture)  # type: ignore[arg-type]
    assert not set(name) & set('<>:"/\\|?*') and name.strip(". ") == name and name.isprintable()
    assert name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "LPT1"}
