"""Plots inside pages: where points stand, what is left out, and that they take the page's colour."""

from __future__ import annotations

import math
import re
import warnings
from xml.etree import ElementTree

import pytest

from cogview.reports import plots
from cogview.reports.html import Plot, Text


def curve(plot: Plot | Text, colour: str) -> list[tuple[float, float]]:
    """The points of the path that has a colour and no filling."""
    assert isinstance(plot, Plot)
    paths = ElementTree.fromstring(plot.svg).iter("path")
    [found] = [
        p.get("d", "") for p in paths if f"stroke: {colour}" in p.get("style", "") and p.get("clip-path")
    ]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] ([-0-9.]+) ([-0-9.]+)", found)]


def test_points_stand_where_their_values_say() -> None:
    """Equal steps in the values are equal steps on the plot; on a logarithmic axis, equal ratios."""
    plot = plots.lines({"a": [(1, 0.0), (4, 1.0), (16, 2.0)]}, "x", "y", log=True)
    (x0, y0), (x1, y1), (x2, y2) = curve(plot, plots.COLOURS[0])
    assert x1 - x0 == pytest.approx(x2 - x1, rel=0.01) and y0 - y1 == pytest.approx(y1 - y2, rel=0.01)
    assert x1 > x0 and y0 > y1


def test_text_takes_the_colour_of_the_page_and_is_not_mathematics() -> None:
    names = ["$x$ & <b>", "图标"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a font without Chinese is the browser's business
        plot = plots.bars(["one"], {name: [1.0] for name in names}, "y", {names[0]: [(0.5, 1.5)]})
    assert isinstance(plot, Plot)
    texts = ["".join(text.itertext()) for text in ElementTree.fromstring(plot.svg).iter("text")]
    assert {*names, "one", "y"} <= {text.strip() for text in texts}
    assert plots.INK not in plot.svg and "currentColor" in plot.svg and "rdf" not in plot.svg


def test_points_that_are_not_finite_are_left_out() -> None:
    plot = plots.lines({"a": [(0, 1.0), (1, math.nan), (2, 3.0)], "b": [(0, math.inf)]}, "x", "y")
    assert len(curve(plot, plots.COLOURS[0])) == 2 and "b" not in re.findall(">([^<]+)</text>", str(plot))
    assert plots.lines({"a": [(0, math.nan)]}, "x", "y") == Text("nothing to plot")
