"""Plots for papers: proportions as bars (CogView, figure 15), accuracy against candidates (figure 9).

What goes into pages is drawn by :mod:`cogview.page` without matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogview.errors import CogViewError
from cogview.evaluation.fairness import AS_ASKED, TRAINING, WITH_WORDS, FairnessReport, Reading
from cogview.evaluation.scoring import Figure
from cogview.files import replacing

COLOURS = {TRAINING: "#b8b8b8", AS_ASKED: "#d08a3c", WITH_WORDS: "#3c78b4"}


def plot_curves(curves: Mapping[str, Sequence[tuple[int, Figure]]], x: str, y: str, path: Path) -> None:
    """A curve with 95 % intervals for each name, x by its logarithm; CogViewError as :func:`new_figure`."""
    figure = new_figure(7, 4)
    axis = figure.add_subplot(xlabel=x, ylabel=y, xscale="log")
    for name, points in curves.items():
        sizes, own = zip(*points, strict=True)
        ends = [[each.value - each.low for each in own], [each.high - each.value for each in own]]
        axis.errorbar(sizes, [each.value for each in own], yerr=ends, marker="o", capsize=3, label=name)
    ticks = sorted({size for points in curves.values() for size, _ in points})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    write_figure(figure, path)


def new_figure(width: float, height: float) -> Any:
    """A figure of so many inches; CogViewError without matplotlib."""
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError:
        raise CogViewError("plots need matplotlib; install it with: pip install 'cogview[eval]'") from None
    return Canvas(figsize=(width, height), layout="constrained")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format its file's name says; CogViewError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            figure.savefig(part, dpi=110, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise CogViewError(f"{path}: cannot be written ({error})") from None


def plot_fairness(report: FairnessReport, path: Path) -> None:
    """One panel a set: bars by value for each way, 95 % intervals, black marks for the shares asked for."""
    figure = new_figure(9, 2.9 * len(report.readings))
    axes = figure.subplots(len(report.readings), 1, squeeze=False)[:, 0]
    for axis, (name, ways) in zip(axes, report.readings.items(), strict=True):
        shown = {way: ways[way] for way in COLOURS if way in ways}
        for number, (way, reading) in enumerate(shown.items()):
            _bars(axis, reading, number, len(shown), way)
        values = list(next(iter(shown.values())).proportions)
        axis.set_xticks(range(len(values)), values)
        room = 1.2 * axis.get_ylim()[1]  # for the legend
        axis.set(title=name, ylabel="share of the pictures", ylim=(0, room))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize="small", ncols=4)
    write_figure(figure, path)


def _bars(axis: Any, reading: Reading, number: int, of: int, way: str) -> None:
    """One way's bars, ``number`` of ``of`` beside each other."""
    width = 0.8 / of
    own = list(reading.proportions.values())
    places = [i + (number - (of - 1) / 2) * width for i in range(len(own))]
    shares = [each.share for each in own]
    ends = [[each.share - each.low for each in own], [each.high - each.share for each in own]]
    style = {"ecolor": "#404040", "capsize": 2, "error_kw": {"elinewidth": 1}}
    label = f"{way} ({reading.pictures})"
    axis.bar(places, shares, width * 0.92, yerr=ends, color=COLOURS[way], label=label, **style)
    if reading.wanted:
        marks = [reading.wanted.get(name, 0.0) for name in reading.proportions]
        axis.scatter(places, marks, marker="_", s=220, color="black", zorder=3, label="asked for")
