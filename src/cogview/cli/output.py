"""What commands print and write: progress, images as they are ready, results as lines or JSON, sheets.

Results go to stdout, everything else to stderr. A file is whole or not there; a place that cannot be written
is found before any work is done.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from cogview.errors import CogViewError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table
    from rich.text import Text

    from cogview.pipelines.base import GeneratedImage

FIRST, EVERY = 5.0, 15.0  # seconds until the first line, and between lines
COLUMNS = 8  # of a contact sheet, at most
GAP = 2  # pixels between its images
AUTO = "auto"
MAX_PROMPTS = 64 << 20  # bytes of a file of prompts

# ------------------------------------------------------------------------------------------- progress


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
def bars(
    unit: Literal["percent", "count", "bytes"] = "count", transient: bool = False
) -> Iterator[Callable[[str, float, float], None]]:
    """Yields what to call with (what, done, of how many); on a terminal everything has a bar of its own."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines: dict[str, Lines] = {}
        yield lambda what, done, total: lines.setdefault(what, Lines(what))(done, total)
        return
    counts: dict[str, type[rich.ProgressColumn]] = {
        "percent": rich.TaskProgressColumn,
        "count": rich.MofNCompleteColumn,
        "bytes": rich.DownloadColumn,
    }
    columns = (rich.TextColumn("{task.description}"), rich.BarColumn(), counts[unit]())
    with rich.Progress(
        *columns, rich.TimeRemainingColumn(), console=console, transient=transient
    ) as progress:
        tasks: dict[str, rich.TaskID] = {}

        def show(what: str, done: float, total: float) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what)
            progress.update(tasks[what], completed=done, total=total)

        yield show


@contextlib.contextmanager
def bar(
    what: str = "drawing", unit: Literal["percent", "count", "bytes"] = "percent"
) -> Iterator[Callable[[float, float], None]]:
    """Yields what to call with how much is done and the total."""
    with bars(unit, transient=True) as show:
        yield functools.partial(show, what)


# ------------------------------------------------------------------------------------------- memory


class _Messages(logging.Handler):
    """What generation has to say about memory, on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage(), err=True)


def batch_limit(text: str | None) -> int | None:
    """The most images at a time, None for what fits; with ``auto`` every plan is printed from here on.

    Batches that were halved are always mentioned.

    Raises:
        CogViewError: neither a number from 1 nor ``auto``.
    """
    log = logging.getLogger("cogview.generation")
    log.handlers = [_Messages()]
    log.setLevel(logging.INFO if text == AUTO else logging.WARNING)
    if text is None or text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise CogViewError(f"--max-batch {text}: give a number from 1, or {AUTO}")
    return int(text)


# ------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """The folder of a file is made; CogViewError where the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CogViewError(f"{path}: cannot be written ({error.strerror or error})") from None


def check_folder(folder: Path) -> None:
    """Make the folder, and see that a file can be written there, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CogViewError(f"{folder}: cannot be written to ({error.strerror}); choose another -o") from error


def write(content: bytes, folder: Path, name: str) -> Path:
    """Write a PNG under ``name``, or ``name-2`` and so on where another image has it; the path.

    The same image is the same file: where it is there already, it stays.
    """
    from cogview.files import write_new

    first = folder / f"{name}.png"
    with writing(first):
        return write_new(lambda number: first if number == 1 else folder / f"{name}-{number}.png", content)
    raise AssertionError


def write_sheet(pictures: Sequence[GeneratedImage], n: int, folder: Path) -> Path:
    """The contact sheet as a file: one row (or more, if n is large) for each prompt."""
    from cogview.pipelines.sheets import contact_sheet

    buffer = io.BytesIO()
    contact_sheet(pictures, min(n, COLUMNS), gap=GAP).save(buffer, "PNG")
    return write(buffer.getvalue(), folder, f"grid-{pictures[0].seed}")


def write_rows(path: Path, rows: Sequence[NDArray[np.uint8]], columns: int = 20) -> None:
    """Write a sheet of sets of images (n, size, size, 3), one above the other."""
    from cogview.evaluation.image_rows import sheet
    from cogview.files import write_image

    with writing(path):
        write_image(path, sheet(rows, columns))


@dataclass
class Made:
    """The images of a command: each is a file in ``folder`` as soon as it is ready."""

    folder: Path
    pictures: list[tuple[GeneratedImage, Path]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def keep(self, picture: GeneratedImage, name: str) -> None:
        """One more, in a file of that name."""
        self.pictures.append((picture, write(picture.png(), self.folder, name)))

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """When stopped by Ctrl-C, say how many images are there."""
        try:
            yield
        except KeyboardInterrupt:
            typer.echo(f"{len(self.pictures)} finished, in {self.folder}", err=True)
            raise

    def sheet(self, n: int) -> Path:
        """Write the contact sheet; ``n`` images a row."""
        return write_sheet([picture for picture, _ in self.pictures], n, self.folder)

    def report(self, as_json: bool, sheet: Path | None = None, **facts: Any) -> None:
        """Paths on stdout and a summary on stderr, or ``facts`` and what is common to all as JSON."""
        seconds, first = time.monotonic() - self.started, self.pictures[0][0]
        if as_json:
            common = {"model": first.model, "model_hash": first.model_hash, "seconds": round(seconds, 3)}
            print_json(common | facts)
            return
        for path in [path for _, path in self.pictures] + ([sheet] if sheet else []):
            typer.echo(path)
        count = f"{len(self.pictures)} picture{'s' if len(self.pictures) > 1 else ''}"
        seeds = ", ".join(dict.fromkeys(str(picture.seed) for picture, _ in self.pictures))
        typer.echo(f"{count} in {seconds:.1f} s, seed {seeds}, model {first.model}", err=True)

    def report_results(self, image: Path, sheet: Path | None, as_json: bool) -> None:
        """As :meth:`report`, of results that were made from one image."""
        first = self.pictures[0][0]
        self.report(
            as_json,
            sheet,
            image=str(image),
            prompt=first.prompt,
            seed=first.seed,
            settings=first.settings,
            pictures=[str(path) for _, path in self.pictures],
            grid=str(sheet) if sheet else None,
        )


# ------------------------------------------------------------------------------------------- stdout


def print_json(data: Any) -> None:
    """Data as JSON, on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def show(*parts: Table | Text | str) -> None:
    """Tables, and lines beside them."""
    from rich.console import Console

    console = Console()
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        else:
            console.print(part, highlight=False)
