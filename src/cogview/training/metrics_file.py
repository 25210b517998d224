"""``metrics.jsonl``, with one JSON line per log step, and its plot ``plots/loss.png``.

A line is ``{"kind": "train" | "evaluate", "step": n, …}``. On resume the lines after the checkpoint's step
are removed, so the file is always one continuous curve.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cogview.files import write_file
from cogview.reports.plots import new_figure, write_figure
from cogview.training.metric_lines import read_lines

if TYPE_CHECKING:
    from cogview.training.trackers import TrackerGroup

Value = float | Tensor


class Window:
    """Metrics since the last log line: tensors stay on their device until they are averaged."""

    def __init__(self, values: Mapping[str, list[float]] | None = None) -> None:
        self._values: dict[str, list[Value]] = {name: list(x) for name, x in (values or {}).items()}

    def add(self, metrics: Mapping[str, Value]) -> None:
        """Add one value of each metric."""
        for name, value in metrics.items():
            self._values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def values(self) -> dict[str, list[float]]:
        """All finite values as floats (those of a skipped update may not be finite)."""
        return {name: [x for x in _floats(xs) if math.isfinite(x)] for name, xs in self._values.items()}

    def means(self) -> dict[str, float]:
        """The mean of each metric; empties the window."""
        means = {name: math.fsum(xs) / len(xs) if xs else math.nan for name, xs in self.values().items()}
        self._values = {}
        return means


def _floats(values: list[Value]) -> list[float]:
    tensors = [value.reshape(()).float() for value in values if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])  # one transfer from the device
    return [next(numbers) if isinstance(value, Tensor) else float(value) for value in values]


class MetricsFile:
    """The run's ``metrics.jsonl``, and the trackers that receive its lines."""

    def __init__(self, path: Path, trackers: TrackerGroup | None = None) -> None:
        self.path, self.trackers = path, trackers

    def append(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite become null."""
        line = {"kind": kind, "step": step, **{name: _plain(value) for name, value in values.items()}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
        if self.trackers:
            self.trackers.line(kind, step, line)

    def close(self) -> None:
        """Close the trackers."""
        if self.trackers:
            self.trackers.close()

    def truncate(self, step: int) -> None:
        """Remove lines after ``step`` and damaged lines, atomically."""
        if self.trackers:
            self.trackers.after = step
        kept = "".join(json.dumps(line) + "\n" for line in self.lines() if line["step"] <= step)
        write_file(self.path, kept, durable=True)

    def lines(self) -> list[dict[str, Any]]:
        """All undamaged lines in order."""
        return read_lines(self.path)

    def has(self, kind: str, step: int) -> bool:
        """Whether there is a line of this kind and step."""
        return any(line["kind"] == kind and line["step"] == step for line in self.lines())


def _plain(value: Any) -> Any:
    number = float(value) if isinstance(value, Tensor) else value
    return None if isinstance(number, float) and not math.isfinite(number) else number


def plot_losses(metrics: Path, image: Path) -> None:
    """Plot every metric named ``loss`` or ending in ``_loss`` over the steps (needs matplotlib).

    Training curves are lines, validation curves are dotted.
    """
    figure = new_figure(8, 5)
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for (kind, name), points in loss_curves(metrics).items():
        style = {"train": "-", "evaluate": "o:"}[kind]
        label = name if kind == "train" else f"{name} ({kind})"
        axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1, markersize=3)
    if axes.lines:
        axes.legend()
    axes.grid(alpha=0.3)
    write_figure(figure, image)


def loss_curves(metrics: Path) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(step, value) points of every loss in a metrics file, by (kind, name)."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for line in MetricsFile(metrics).lines():
        for name, value in line.items():
            is_loss = name == "loss" or name.endswith("_loss")
            if is_loss and value is not None and line["kind"] in ("train", "evaluate"):
                curves.setdefault((line["kind"], name), []).append((line["step"], value))
    return curves
