"""Progress on stderr: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Literal

import typer

FIRST, EVERY = 5.0, 15.0  # seconds until the first line, and between lines


class Lines:
    """Progress for logs: what is being done, how much of it is done, and the time left.

    ``tell`` prints a line; nothing is printed for what takes less than FIRST seconds.
    """

    def __init__(
        self,
        what: str,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda line: typer.echo(line, err=True),
    ) -> None:
        self.what, self._clock, self._tell = what, clock, tell
        self._started = clock()
        self._next = self._started + FIRST

    def __call__(self, done: float, total: float) -> None:
        """``done`` of ``total`` are done."""
        now = self._clock()
        if now < self._next or not 0 < done < total:
            return
        self._next = now + EVERY
        left = (now - self._started) * (total - done) / done
        self._tell(f"{self.what}: {100 * done / total:.0f} %, about {_duration(left)} left")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def bar(
    what: str = "drawing", unit: Literal["percent", "count", "bytes"] = "percent"
) -> Iterator[Callable[[float, float], None]]:
    """Yields what to call with how much is done and the total."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(what)
        return
    counts: dict[str, type[rich.ProgressColumn]] = {
        "percent": rich.TaskProgressColumn,
        "count": rich.MofNCompleteColumn,
        "bytes": rich.DownloadColumn,
    }
    columns = (rich.TextColumn(what), rich.BarColumn(), counts[unit](), rich.TimeRemainingColumn())
    with rich.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Yields what to call with (what, done, of how many); on a terminal everything has a bar of its own."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines: dict[str, Lines] = {}
        yield lambda what, done, total: lines.setdefault(what, Lines(what))(done, total)
        return
    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console) as progress:
        tasks: dict[str, rich.TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done)

        yield show
