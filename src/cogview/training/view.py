"""The state of a run from its directory, as data and as a live view for the terminal.

``cogview watch RUN`` and ``cogview train --live`` show it, updated every second. It needs neither PyTorch nor
the training process, only ``recipe.yaml``, ``metrics.jsonl``, ``checkpoints/`` and ``samples/``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cogview.config import load_yaml, validate
from cogview.errors import CogViewError
from cogview.files import is_regular
from cogview.training.metric_lines import read_lines
from cogview.training.progress import duration

LEVELS = "▁▂▃▄▅▆▇█"
SHOWN_SAMPLES = 3
MAX_DIGITS = 15  # of a step number
SILENT = 120.0  # minimum seconds without a new line after which a run is reported as silent


@dataclass
class RunView:
    """The state of a run. ``lines``: its metrics; ``age``: seconds since the last line, if any."""

    directory: Path
    name: str
    steps: int
    task: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    checkpoint: int | None = None
    age: float | None = None

    @property
    def step(self) -> int:
        """The last known step."""
        return max([self.checkpoint or 0, *(line["step"] for line in self.lines)], default=0)

    @property
    def last(self) -> dict[str, Any]:
        """The last training line."""
        return next((line for line in reversed(self.lines) if line["kind"] == "train"), {})

    @property
    def left(self) -> float | None:
        """Estimated seconds to the last step, at the speed between the last two lines; None if unknown."""
        train = [line for line in self.lines if line["kind"] == "train" and "seconds" in line]
        if not train:
            return None
        before = train[-2] if len(train) > 1 else {"step": 0, "seconds": 0.0}
        steps, seconds = train[-1]["step"] - before["step"], train[-1]["seconds"] - before["seconds"]
        return max(0, self.steps - self.step) * seconds / steps if steps > 0 else None

    @property
    def skipped(self) -> int:
        """Number of skipped updates in the metrics."""
        return sum(line["kind"] == "skipped" for line in self.lines)

    @property
    def state(self) -> str:
        """``done``, ``running``, ``silent`` (no line for long) or ``beginning``."""
        if self.step >= self.steps:
            return "done"
        if self.age is None:
            return "beginning"
        train = [line["seconds"] for line in self.lines if "seconds" in line]
        interval = train[-1] - train[-2] if len(train) > 1 else 0.0
        return "running" if self.age < max(SILENT, 5 * interval) else "silent"

    def curve(self, kind: str, name: str) -> list[float]:
        """The finite values of a metric."""
        values = (line.get(name) for line in self.lines if line["kind"] == kind)
        return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]


class _Recipe(pydantic.BaseModel):
    """The fields of a recipe that are shown; others are ignored."""

    name: str
    steps: int = Field(ge=1)
    task: str = ""


def read_run(directory: Path) -> RunView:
    """Read the state of a run; raises CogViewError if there is none."""
    path = directory / "recipe.yaml"
    if not is_regular(path):
        raise CogViewError(f"{directory} holds no run (no recipe.yaml in it); give a run's directory")
    recipe = validate(_Recipe, load_yaml(path), str(path))
    metrics = directory / "metrics.jsonl"
    view = RunView(directory, recipe.name, recipe.steps, recipe.task)
    if is_regular(metrics):
        view.lines = read_lines(metrics)
        view.age = time.time() - metrics.stat().st_mtime
    view.samples = sorted((directory / "samples").glob("*"))[-SHOWN_SAMPLES:]
    steps = [path.name.rpartition("-")[2] for path in (directory / "checkpoints").glob("step-*")]
    numbers = (int(step) for step in steps if step.isdecimal() and len(step) <= MAX_DIGITS)
    view.checkpoint = max(numbers, default=None)
    return view


def sparkline(values: Sequence[float], width: int = 32) -> str:
    """A curve in ``width`` characters, each the mean of an interval."""
    if not values:
        return ""
    count = min(width, len(values))
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [math.fsum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round((mean - low) * scale)] for mean in means)


def facts(view: RunView) -> dict[str, str]:
    """The values of the last line as text: speed, utilisation, memory, skipped updates."""
    last, texts = view.last, dict[str, str]()
    if "tokens_per_second" in last:
        texts["speed"] = f"{last['tokens_per_second']:,.0f} tokens/s"
    if "items_per_second" in last:
        items = f"{last['items_per_second']:,.1f} items/s"
        texts["speed"] = f"{texts['speed']}, {items}" if "speed" in texts else items
    if last.get("utilisation") is not None:
        texts["utilisation"] = f"{last['utilisation']:.0%} of the measured matrix-product rate"
    if last.get("stalls") is not None:
        texts["waiting for data"] = f"{last['stalls']:.1%} of the time"
    if last.get("memory") is not None:
        texts["memory"] = f"{last['memory'] / 2**30:.2f} GiB"
    for name, label in (
        ("lr", "learning rate"),
        ("grad_norm", "gradient norm"),
        ("loss_scale", "loss scale"),
    ):
        if last.get(name) is not None:
            texts[label] = f"{last[name]:.4g}"
    if view.skipped:
        texts["skipped updates"] = f"{view.skipped}, the last at step {_last_skipped(view)}"
    return texts


def _last_skipped(view: RunView) -> int:
    return max(int(line["step"]) for line in view.lines if line["kind"] == "skipped")


def loss_names(view: RunView) -> list[tuple[str, str]]:
    """(kind, metric) of every loss, the total before its text and image parts."""
    names = [
        (line["kind"], name)
        for line in view.lines
        for name in line
        if name == "loss" or name.endswith("_loss")
    ]
    return sorted(dict.fromkeys(names), key=lambda pair: (pair[0] != "train", pair[1] != "loss", pair[1]))


def render(view: RunView) -> Panel:
    """The complete view for a terminal."""
    progress = Table.grid(padding=(0, 1))
    left = "" if view.left is None or view.state == "done" else f"{duration(view.left)} left"
    bar = ProgressBar(view.steps, view.step, width=30)
    progress.add_row(f"step {view.step:,} of {view.steps:,}", bar, left)
    losses = Table.grid(padding=(0, 2))
    for kind, name in loss_names(view):
        curve = view.curve(kind, name)
        if curve:
            title = name if kind == "train" else f"{name} (validation)"
            losses.add_row(title, f"{curve[-1]:.4f}", f"minimum {min(curve):.4f}", sparkline(curve))
    numbers = Table.grid(padding=(0, 2))
    for label, value in facts(view).items():
        numbers.add_row(label, value)
    if view.checkpoint is not None:
        numbers.add_row("checkpoint", f"step {view.checkpoint:,}")
    samples = [Text(str(path)) for path in view.samples]
    shown_samples = [Text("samples:"), *samples] if samples else []
    parts: list[RenderableType] = [progress, losses, numbers, *shown_samples]
    state = {"silent": f"silent for {duration(view.age or 0)}"}.get(view.state, view.state)
    return Panel(Group(*parts), title=f"{view.name} · {view.task} · {state}", title_align="left")


def summary(view: RunView) -> Mapping[str, Any]:
    """The view as JSON data."""
    evaluated = next((line for line in reversed(view.lines) if line["kind"] == "evaluate"), None)
    return {
        "name": view.name, "task": view.task, "state": view.state, "step": view.step, "steps": view.steps,
        "seconds_left": None if view.left is None else round(view.left, 1), "train": view.last,
        "evaluate": evaluated, "updates_left_out": view.skipped, "checkpoint": view.checkpoint,
        "samples": [str(path) for path in view.samples],
    }  # fmt: skip


class _Now:
    """Renders the current state of a run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __rich__(self) -> Panel | Text:
        try:
            return render(read_run(self.directory))
        except CogViewError:
            return Text(f"{self.directory}: beginning")


@contextmanager
def live(directory: Path, console: Console, interval: float = 1.0) -> Iterator[None]:
    """Show a run on a terminal during the block."""
    with Live(_Now(directory), console=console, refresh_per_second=1 / interval):
        yield


@contextmanager
def live_view(directory: Path, console: Console, shown: bool) -> Iterator[Console]:
    """The console for a trainer: the given one, or a quiet one while the live view is shown."""
    if not shown or not console.is_terminal:
        yield console
        return
    with live(directory, console):
        yield Console(quiet=True)
