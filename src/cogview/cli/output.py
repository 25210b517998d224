"""Output of commands: progress, image files, results as lines or JSON, contact sheets.

Results go to stdout, everything else to stderr. Files are written atomically, and folders are checked before
any work is done.
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

FIRST, EVERY = 5.0, 15.0  # seconds until the first progress line, and between lines
COLUMNS = 8  # maximum of a contact sheet
GAP = 2  # pixels between its images
AUTO = "auto"
MAX_PROMPTS = 64 << 20  # bytes of a file of prompts

# ------------------------------------------------------------------------------------------- progress


class ProgressLines:
    """Progress as lines of text, for logs: the task, the percentage done, and the time left.

    Tasks of less than FIRST seconds print nothing.
    """

    def __init__(
        self,
        task: str,
        clock: Callable[[], float] = time.monotonic,
        print_line: Callable[[str], None] = lambda line: typer.echo(line, err=True),
    ) -> None:
        self.task, self._clock, self._print = task, clock, print_line
        self._started = clock()
        self._next = self._started + FIRST

    def __call__(self, done: float, total: float) -> None:
        """Report that ``done`` of ``total`` are done."""
        now = self._clock()
        if now < self._next or not 0 < done < total:
            return
        self._next = now + EVERY
        left = (now - self._started) * (total - done) / done
        self._print(f"{self.task}: {100 * done / total:.0f} %, about {_duration(left)} left")


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
    """Yields a callback for progress, (task, done, total); on a terminal each task has its own bar."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        lines: dict[str, ProgressLines] = {}
        yield lambda task, done, total: lines.setdefault(task, ProgressLines(task))(done, total)
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

        def show(task: str, done: float, total: float) -> None:
            if task not in tasks:
                tasks[task] = progress.add_task(task)
            progress.update(tasks[task], completed=done, total=total)

        yield show


@contextlib.contextmanager
def bar(
    task: str = "generating", unit: Literal["percent", "count", "bytes"] = "percent"
) -> Iterator[Callable[[float, float], None]]:
    """Yields a callback for the progress of one task, (done, total)."""
    with bars(unit, transient=True) as show:
        yield functools.partial(show, task)


# ------------------------------------------------------------------------------------------- memory


class _StderrHandler(logging.Handler):
    """Prints the log messages of generation about memory on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage(), err=True)


def batch_limit(text: str | None) -> int | None:
    """Maximum batch size from the option ``--max-batch``; None for as many as fit.

    With ``auto``, batch plans are printed from now on. Batches that were halved are always reported.

    Raises:
        CogViewError: neither a number from 1 nor ``auto``.
    """
    log = logging.getLogger("cogview.generation")
    log.handlers = [_StderrHandler()]
    log.setLevel(logging.INFO if text == AUTO else logging.WARNING)
    if text is None or text == AUTO:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise CogViewError(f"--max-batch {text}: give a number from 1, or {AUTO}")
    return int(text)


# ------------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Create a file's folder; raises CogViewError if the file cannot be written inside the ``with`` block."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CogViewError(f"{path}: cannot be written ({error.strerror or error})") from None


def check_folder(folder: Path) -> None:
    """Create a folder and check that files can be written there; raises CogViewError if not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CogViewError(f"{folder}: cannot be written to ({error.strerror}); choose another -o") from error


def write(content: bytes, folder: Path, name: str) -> Path:
    """Write a PNG as ``name``, or ``name-2`` and so on if that file holds another image; returns its path.

    If a file with the same content exists, it is kept.
    """
    from cogview.files import write_new

    first = folder / f"{name}.png"
    with writing(first):
        return write_new(lambda number: first if number == 1 else folder / f"{name}-{number}.png", content)
    raise AssertionError


def write_sheet(images: Sequence[GeneratedImage], n: int, folder: Path) -> Path:
    """Write a contact sheet, a row for each prompt, or a square of single images; returns its path."""
    from cogview.pipelines.sheets import contact_sheet

    buffer = io.BytesIO()
    contact_sheet(images, min(n, COLUMNS) if n > 1 else None, gap=GAP).save(buffer, "PNG")
    return write(buffer.getvalue(), folder, f"grid-{images[0].seed}")


def write_rows(path: Path, rows: Sequence[NDArray[np.uint8]], columns: int = 20) -> None:
    """Write a sheet of sets of images (n, size, size, 3), one above the other."""
    from cogview.evaluation.image_rows import sheet
    from cogview.files import write_image

    with writing(path):
        write_image(path, sheet(rows, columns))


@dataclass
class SavedImages:
    """The images of a command, each written to ``folder`` as soon as it is ready."""

    folder: Path
    images: list[tuple[GeneratedImage, Path]] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    def save(self, image: GeneratedImage, name: str) -> None:
        """Write an image as ``name``."""
        self.images.append((image, write(image.png(), self.folder, name)))

    @contextlib.contextmanager
    def report_interrupt(self) -> Iterator[None]:
        """On Ctrl-C, print how many images were saved."""
        try:
            yield
        except KeyboardInterrupt:
            typer.echo(f"{len(self.images)} finished, in {self.folder}", err=True)
            raise

    def sheet(self, n: int) -> Path:
        """Write the contact sheet, with ``n`` images a row; returns its path."""
        return write_sheet([image for image, _ in self.images], n, self.folder)

    def report(self, as_json: bool, sheet: Path | None = None, **facts: Any) -> None:
        """Print paths on stdout and a summary on stderr, or ``facts`` with model and time as JSON."""
        seconds, first = time.monotonic() - self.started, self.images[0][0]
        if as_json:
            common = {"model": first.model, "model_hash": first.model_hash, "seconds": round(seconds, 3)}
            print_json(common | facts)
            return
        for path in [path for _, path in self.images] + ([sheet] if sheet else []):
            typer.echo(path)
        count = f"{len(self.images)} image{'s' if len(self.images) > 1 else ''}"
        seeds = ", ".join(dict.fromkeys(str(image.seed) for image, _ in self.images))
        typer.echo(f"{count} in {seconds:.1f} s, seed {seeds}, model {first.model}", err=True)

    def report_results(self, image: Path, sheet: Path | None, as_json: bool) -> None:
        """As :meth:`report`, for results that were generated from one image."""
        first = self.images[0][0]
        self.report(
            as_json,
            sheet,
            image=str(image),
            prompt=first.prompt,
            seed=first.seed,
            settings=first.settings,
            pictures=[str(path) for _, path in self.images],
            grid=str(sheet) if sheet else None,
        )


# ------------------------------------------------------------------------------------------- stdout


def print_json(data: Any) -> None:
    """Print data as JSON on stdout."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def show(*parts: Table | Text | str) -> None:
    """Print tables and lines of text on stdout."""
    from rich.console import Console

    console = Console()
    for part in parts:
        if isinstance(part, str):
            typer.echo(part)
        else:
            console.print(part, highlight=False)
