"""The plot of a fairness report: proportions as bars (CogView, figure 15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.evaluation.experiments.audit import AS_ASKED, TRAINING, WITH_WORDS, FairnessReport, Reading
from cogview.reports.plots import new_figure, write_figure

COLOURS = {TRAINING: "#b8b8b8", AS_ASKED: "#d08a3c", WITH_WORDS: "#3c78b4"}


def plot_fairness(report: FairnessReport, path: Path) -> None:
    """Plot one panel per prompt set: bars by value and condition, 95 % intervals, marks at target shares."""
    figure = new_figure(9, 2.9 * len(report.readings))
    axes = figure.subplots(len(report.readings), 1, squeeze=False)[:, 0]
    for axis, (name, readings) in zip(axes, report.readings.items(), strict=True):
        shown = {condition: readings[condition] for condition in COLOURS if condition in readings}
        for number, (condition, reading) in enumerate(shown.items()):
            _bars(axis, reading, number, len(shown), condition)
        values = list(next(iter(shown.values())).proportions)
        axis.set_xticks(range(len(values)), values)
        top = 1.2 * axis.get_ylim()[1]  # room for the legend
        axis.set(title=name, ylabel="share of the images", ylim=(0, top))
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize="small", ncols=4)
    write_figure(figure, path)


def _bars(axis: Any, reading: Reading, number: int, count: int, condition: str) -> None:
    """Plot the bars of one condition, number ``number`` of ``count`` side by side."""
    width = 0.8 / count
    values = list(reading.proportions.values())
    positions = [i + (number - (count - 1) / 2) * width for i in range(len(values))]
    shares = [value.share for value in values]
    errors = [[value.share - value.low for value in values], [value.high - value.share for value in values]]
    style = {"ecolor": "#404040", "capsize": 2, "error_kw": {"elinewidth": 1}}
    label = f"{condition} ({reading.pictures})"
    axis.bar(positions, shares, width * 0.92, yerr=errors, color=COLOURS[condition], label=label, **style)
    if reading.wanted:
        targets = [reading.wanted.get(name, 0.0) for name in reading.proportions]
        axis.scatter(positions, targets, marker="_", s=220, color="black", zorder=3, label="target")
