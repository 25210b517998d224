"""Plots with matplotlib: curves and bars as inline SVG for pages, figures as files.

Text and axes of an inline SVG have the page's text colour, for dark pages as well as light ones.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cogview.errors import CogViewError
from cogview.files import replacing
from cogview.reports.html import Plot, Text

Point = tuple[float, float]
COLOURS = ("#3b82d0", "#e0802a", "#2f9e6e", "#c8504d", "#8e6bbf", "#8a8a8a", "#b0920a", "#d46aa5")
INK = "#010203"  # placeholder for the page's text colour
NOT_HTML = re.compile(r'<metadata>.*?</metadata>| xmlns(:xlink)?="[^"]*"', re.DOTALL)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cogview",
    "axes.prop_cycle": f"cycler('color', {list(COLOURS)})",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Estimate(Protocol):
    """A value with its interval."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def new_figure(width: float, height: float) -> Any:
    """An empty figure of this size in inches; CogViewError if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise CogViewError("plots need matplotlib; install it with: pip install 'cogview[report]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format of the file's suffix; CogViewError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            figure.savefig(part, dpi=110, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise CogViewError(f"{path}: cannot be written ({error})") from None


def png(figure: Any, software: str) -> bytes:
    """A figure as a PNG whose metadata names the software."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": software})
    return buffer.getvalue()


def lines(
    series: Mapping[str, Sequence[Point]],
    x: str,
    y: str,
    spans: Mapping[str, Sequence[Point]] | None = None,
    log: bool = False,
    dashed: Sequence[str] = (),
) -> Plot | Text:
    """Curves by name; ``spans``: (low, high) of each point's interval; ``dashed``: names of dashed curves.

    Points that are not finite are left out; ``log``: logarithmic x axis with ticks at the points.
    """
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return Text("nothing to plot")

    def draw(axes: Any) -> None:
        for name, points in kept.items():
            style: dict[str, Any] = {"linestyle": "--" if name in dashed else "-", "label": name}
            style |= {"marker": "o", "markersize": 4} if len(points) <= 40 else {}
            axes.errorbar(*zip(*points, strict=True), yerr=_errors(points, spans, name), capsize=3, **style)
        xs = sorted({value for points in kept.values() for value, _ in points})
        if log and xs[0] > 0:
            axes.set_xscale("log")
            axes.set_xticks(xs, [f"{value:g}" for value in xs])
            axes.minorticks_off()

    return _plot(draw, x, y, len(kept))


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    y: str,
    spans: Mapping[str, Sequence[Point]] | None = None,
    marks: Mapping[str, Sequence[float | None]] | None = None,
) -> Plot | Text:
    """Bars of all series side by side in each group, with intervals and marks (short thick lines)."""

    def draw(axes: Any) -> None:
        width = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            xs = [group + (number - (len(series) - 1) / 2) * width for group in range(len(values))]
            points = list(zip(xs, values, strict=True))
            errors = {"yerr": _errors(points, spans, name), "ecolor": INK, "capsize": 2}
            axes.bar(xs, values, width * 0.92, label=name, **errors)
            for x, mark in zip(xs, (marks or {}).get(name, ()), strict=False):
                if mark is not None:
                    axes.hlines(mark, x - width * 0.46, x + width * 0.46, color=INK, linewidth=3)
        limit = 80 // max(1, len(groups)) + 2
        axes.set_xticks(range(len(groups)), [_short(name, limit) for name in groups])

    return _plot(draw, "", y, len(series))


def _errors(
    points: Sequence[Point], spans: Mapping[str, Sequence[Point]] | None, name: str
) -> tuple[list[float], list[float]] | None:
    """The lengths of the intervals below and above their points."""
    intervals = (spans or {}).get(name)
    if intervals is None:
        return None
    below = [max(0.0, value - low) for (_, value), (low, _) in zip(points, intervals, strict=False)]
    above = [max(0.0, high - value) for (_, value), (_, high) in zip(points, intervals, strict=False)]
    return below, above


def _plot(draw: Any, x: str, y: str, count: int) -> Plot:
    """A plot whose axes ``draw`` fills, as SVG with a legend of ``count`` names below."""
    figure = new_figure(7.2, 3.4 + 0.22 * (-(-count // 3)))
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about glyphs missing in matplotlib's font
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        draw(axes)
        axes.grid(axis="y", alpha=0.25, color=INK)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=min(count, 3), frameon=False, fontsize="small")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = NOT_HTML.sub("", text[text.index("<svg") :])
    return Plot(text.replace("xlink:href", "href").replace(INK, "currentColor"))


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: max(1, limit - 1)] + "…"


def plot_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[int, Estimate]]]], x: str, path: Path
) -> None:
    """Plot curves with 95 % intervals over a logarithmic x axis, a panel for each quantity.

    CogViewError as :func:`new_figure` and :func:`write_figure`.
    """
    figure = new_figure(2 + 5 * len(panels), 4)
    for number, (y, curves) in enumerate(panels.items(), 1):
        axis = figure.add_subplot(1, len(panels), number, xlabel=x, ylabel=y, xscale="log")
        for name, points in curves.items():
            sizes, estimates = zip(*points, strict=True)
            errors = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
            values = [estimate.value for estimate in estimates]
            axis.errorbar(sizes, values, yerr=errors, marker="o", capsize=3, label=name)
        ticks = sorted({size for points in curves.values() for size, _ in points})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    write_figure(figure, path)
