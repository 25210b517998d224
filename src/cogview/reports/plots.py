"""All plots, by matplotlib: curves and bars as inline SVG for pages, figures as files.

Text and axes of an inline SVG have the page's own colour, so that they suit a dark page as well as a light
one.
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
INK = "#010203"  # is replaced by the page's text colour
ALIEN = re.compile(r'<metadata>.*?</metadata>| xmlns(:xlink)?="[^"]*"', re.DOTALL)  # not in HTML
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
    """A figure of this size in inches; CogViewError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise CogViewError("plots need matplotlib; install it with: pip install 'cogview[report]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure in the format its file's name says; CogViewError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            figure.savefig(part, dpi=110, format=path.suffix[1:] or "png")
    except (OSError, ValueError) as error:
        raise CogViewError(f"{path}: cannot be written ({error})") from None


def png(figure: Any, software: str) -> bytes:
    """A figure as a PNG that names the software which made it."""
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
    """Curves by name; ``spans``: (low, high) of each point's interval; ``dashed``: names drawn so.

    Points that are not finite are left out; ``log``: x by its logarithm, ticks at the points.
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
        xs = sorted({at for points in kept.values() for at, _ in points})
        if log and xs[0] > 0:
            axes.set_xscale("log")
            axes.set_xticks(xs, [f"{at:g}" for at in xs])
            axes.minorticks_off()

    return _plot(draw, x, y, len(kept))


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    y: str,
    spans: Mapping[str, Sequence[Point]] | None = None,
    marks: Mapping[str, Sequence[float | None]] | None = None,
) -> Plot | Text:
    """Bars of every series side by side in each group, with intervals and marks (a short thick line)."""

    def draw(axes: Any) -> None:
        width = 0.8 / max(1, len(series))
        for number, (name, values) in enumerate(series.items()):
            places = [at + (number - (len(series) - 1) / 2) * width for at in range(len(values))]
            own = list(zip(places, values, strict=True))
            errors = {"yerr": _errors(own, spans, name), "ecolor": INK, "capsize": 2}
            axes.bar(places, values, width * 0.92, label=name, **errors)
            marked = zip(places, (marks or {}).get(name, ()), strict=False)
            for place, mark in marked:
                if mark is not None:
                    axes.hlines(mark, place - width * 0.46, place + width * 0.46, color=INK, linewidth=3)
        most = 80 // max(1, len(groups)) + 2
        axes.set_xticks(range(len(groups)), [_short(name, most) for name in groups])

    return _plot(draw, "", y, len(series))


def _errors(
    points: Sequence[Point], spans: Mapping[str, Sequence[Point]] | None, name: str
) -> tuple[list[float], list[float]] | None:
    """How far intervals reach below and above their points."""
    own = (spans or {}).get(name)
    if own is None:
        return None
    below = [max(0.0, value - low) for (_, value), (low, _) in zip(points, own, strict=False)]
    above = [max(0.0, high - value) for (_, value), (_, high) in zip(points, own, strict=False)]
    return below, above


def _plot(draw: Any, x: str, y: str, count: int) -> Plot:
    """What ``draw`` puts on axes, as SVG with a legend of ``count`` names below."""
    figure = new_figure(7.2, 3.4 + 0.22 * (-(-count // 3)))
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about glyphs that only a browser's fonts have
        axes = figure.add_subplot(xlabel=x, ylabel=y)
        draw(axes)
        axes.grid(axis="y", alpha=0.25, color=INK)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=min(count, 3), frameon=False, fontsize="small")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = ALIEN.sub("", text[text.index("<svg") :])
    return Plot(text.replace("xlink:href", "href").replace(INK, "currentColor"))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"


def plot_curves(curves: Mapping[str, Sequence[tuple[int, Estimate]]], x: str, y: str, path: Path) -> None:
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
