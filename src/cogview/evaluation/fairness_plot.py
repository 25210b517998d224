"""The plot of a fairness report: proportions as bars (CogView, figure 15)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogview.evaluation.experiments.audit import AS_ASKED, TRAINING, WITH_WORDS, FairnessReport, Reading
from cogview.reports.plots import new_figure, write_figure

COLOURS = {TRAINING: "#b8b8b8", AS_ASKED: "#d08a3c", WITH_WORDS: "#3c78b4"}


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
