"""Self-contained HTML pages: text, tables, pictures and plots in one file that asks nothing of a network.

Plots are inline SVG in the text's colour, so that they suit a dark page as well as a light one; pictures are
data URIs; there are no scripts, and the page's own policy forbids them. All text is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

Point = tuple[float, float]
WIDTH, HEIGHT = 640, 300  # of a plot's coordinates
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 12, 42
COLOURS = ("#3b82d0", "#e0802a", "#2f9e6e", "#c8504d", "#8e6bbf", "#8a8a8a", "#b0920a", "#d46aa5")
SMALLEST = 64  # pixels: a picture is not shrunk below this to save space
STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:0 auto;padding:1rem;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.2}h2{margin-top:2.2rem;padding-top:.5rem;border-top:1px solid #8886}
h3{margin-bottom:.3rem}
nav ul{padding-left:1.2rem;columns:18rem}img{max-width:100%;height:auto;image-rendering:auto}
img.pixels{image-rendering:pixelated}figure{margin:.8rem 0}
figure.small{display:inline-block;margin:.3rem;vertical-align:top}
figcaption,small,.note{font-size:.85rem;opacity:.75}.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums;margin:.4rem 0}
td,th{padding:.15rem .7rem .15rem 0;text-align:right;white-space:nowrap;border-bottom:1px solid #8883}
td:first-child,th:first-child{text-align:left}td.text{text-align:left;white-space:normal}
pre{overflow-x:auto;background:#8881;padding:.6rem;border-radius:.3rem;font-size:.85rem}
details{margin:.5rem 0}summary{cursor:pointer}
svg{width:100%;height:auto;display:block;max-width:46rem;min-width:30rem}
svg text{fill:currentColor;font:12px system-ui,sans-serif}
@media(max-width:34rem){svg text{font-size:14px}}
.key{font-size:.85rem;margin:.1rem 0 .6rem}.key span{white-space:nowrap;margin-right:1rem}
.key i{display:inline-block;width:.8rem;height:.8rem;border-radius:.15rem;margin-right:.35rem}
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Section:
    """A heading and the HTML below it."""

    title: str
    body: str


def page(title: str, sections: Sequence[Section], note: str = "") -> str:
    """The whole document, with a table of contents where there are several sections."""
    heads = "".join(f"<li><a href='#s{i}'>{escape(s.title)}</a></li>" for i, s in enumerate(sections))
    contents = f"<nav><ul>{heads}</ul></nav>" if len(sections) > 1 else ""
    bodies = "\n".join(
        f"<section id='s{i}'><h2>{escape(s.title)}</h2>\n{s.body}\n</section>" for i, s in enumerate(sections)
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>{paragraph(note) if note else ''}\n{contents}\n{bodies}\n"
        "</body></html>\n"
    )


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def paragraph(text: str, small: bool = True) -> str:
    """A paragraph of plain text."""
    return f"<p class='note'>{escape(text)}</p>" if small else f"<p>{escape(text)}</p>"


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def details(title: str, body: str) -> str:
    """Something to unfold."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def preformatted(text: str) -> str:
    """Text as it stands."""
    return f"<pre>{escape(text)}</pre>"


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table that scrolls by itself where the page is narrow; numbers are shortened, long texts break."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(value: object) -> str:
    text = number(value)
    return f"<td class='text'>{escape(text)}</td>" if len(text) > 40 else f"<td>{escape(text)}</td>"


def number(value: object) -> str:
    """A value as a table shows it: floats with four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10000 and math.isfinite(value) else f"{value:.4g}"
    return str(value)


# --------------------------------------------------------------------------------------------- pictures


def picture(image: Image.Image, limit: int, caption: str = "", width: int | None = None) -> str:
    """A figure of at most about ``limit`` bytes; a picture that is larger is made a JPEG, and then smaller.

    width: how wide it is shown, in CSS pixels; small pictures keep hard pixels.
    """
    data, kind = encoded(image, limit)
    style = f" width='{width}'" if width else ""
    pixels = " class='pixels'" if width and width > image.width else ""
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    small = " class='small'" if width else ""
    told = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure{small}><img src='{uri}' alt='{escape(caption)}'{style}{pixels}>{told}</figure>"


def encoded(image: Image.Image, limit: int) -> tuple[bytes, str]:
    """The picture's bytes and kind (``png`` or ``jpeg``), at most ``limit`` bytes in base64 if it can be."""
    data, kind = _bytes(image, "png"), "png"
    while len(data) * 4 // 3 > limit:
        if kind == "jpeg":
            if max(image.size) // 2 < SMALLEST:
                break
            image = image.resize((max(1, image.width * 2 // 3), max(1, image.height * 2 // 3)))
        data, kind = _bytes(image.convert("RGB"), "jpeg"), "jpeg"
    return data, kind


def _bytes(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind.upper(), **({"quality": 85} if kind == "jpeg" else {"optimize": True}))
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------ plots


@dataclass(frozen=True)
class Scale:
    """A range of values on a stretch of the plot; ``log``: by their logarithms."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, here = (self._plain(x) for x in (self.low, self.high, value))
        return self.start + (here - low) / ((high - low) or 1.0) * (self.end - self.start)

    def _plain(self, value: float) -> float:
        return math.log(value) if self.log else value


def lines(
    series: Mapping[str, Sequence[Point]],
    x: str,
    y: str,
    spans: Mapping[str, Sequence[Point]] | None = None,
    log: bool = False,
    dashed: Sequence[str] = (),
) -> str:
    """Curves by name; ``spans``: (low, high) of each point's interval; ``dashed``: names drawn so.

    Points that are not finite are left out; ``log``: x by its logarithm, ticks at the points.
    """
    kept = {name: [p for p in points if all(map(math.isfinite, p))] for name, points in series.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return paragraph("nothing to plot")
    ends = [end for pairs in (spans or {}).values() for pair in pairs for end in pair]
    xs, ys = ([p[i] for points in kept.values() for p in points] for i in (0, 1))
    log = log and min(xs) > 0
    across = Scale(min(xs), max(xs), LEFT + 6, WIDTH - RIGHT - 6, log)
    up = Scale(*_widened(min(ys + ends), max(ys + ends)), HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, up, x, y, sorted(set(xs)) if log else None)]
    for place, (name, points) in enumerate(kept.items()):
        colour = COLOURS[place % len(COLOURS)]
        for (at, _), (low, high) in zip(points, (spans or {}).get(name, ()), strict=False):
            parts.append(_whisker(across(at), up(low), up(high), colour))
        path = " ".join(f"{across(a):.1f},{up(b):.1f}" for a, b in points)
        dash = " stroke-dasharray='5 4'" if name in dashed else ""
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.8'{dash}/>")
        if len(points) <= 40:
            dots = (
                f"<circle cx='{across(a):.1f}' cy='{up(b):.1f}' r='3' fill='{colour}'/>" for a, b in points
            )
            parts += dots
    return _svg(parts, f"{y} by {x}") + key(list(kept))


def bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    y: str,
    spans: Mapping[str, Sequence[Point]] | None = None,
    marks: Mapping[str, Sequence[float | None]] | None = None,
) -> str:
    """Bars of every series side by side in each group, with intervals and marks (a short thick line)."""
    ends = [end for pairs in (spans or {}).values() for pair in pairs for end in pair]
    told = [mark for own in (marks or {}).values() for mark in own if mark is not None]
    heights = [0.0, *ends, *told, *(value for values in series.values() for value in values)]
    across = Scale(-0.5, len(groups) - 0.5, LEFT, WIDTH - RIGHT)
    up = Scale(*_widened(min(heights), max(heights), both=False), HEIGHT - BOTTOM, TOP)
    parts, wide = [_frame(across, up, "", y, [])], 0.8 / max(1, len(series))
    for place, (name, values) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        for group, value in enumerate(values):
            middle = across(group + (place - (len(series) - 1) / 2) * wide)
            half = (across(wide) - across(0)) * 0.45
            top, foot = sorted((up(value), up(0)))
            parts.append(
                f"<rect x='{middle - half:.1f}' y='{top:.1f}' width='{2 * half:.1f}' "
                f"height='{foot - top:.1f}' fill='{colour}'/>"
            )
            if spans and name in spans:
                low, high = spans[name][group]
                parts.append(_whisker(middle, up(low), up(high), "currentColor"))
            mark = marks[name][group] if marks and name in marks else None
            if mark is not None:
                parts.append(_line(middle - half, up(mark), middle + half, up(mark), "currentColor", 3))
    for group, name in enumerate(groups):
        parts.append(_text(across(group), HEIGHT - BOTTOM + 16, _short(name, 80 // max(1, len(groups)) + 2)))
    return _svg(parts, y) + key(list(series))


def key(names: Sequence[str]) -> str:
    """What the colours mean."""
    spans = (
        f"<span><i style='background:{COLOURS[i % len(COLOURS)]}'></i>{escape(name)}</span> "
        for i, name in enumerate(names)
    )
    return f"<p class='key'>{''.join(spans)}</p>"


def _frame(across: Scale, up: Scale, x: str, y: str, at: Sequence[float] | None = None) -> str:
    """Grid, ticks and names of the axes; ``at``: places of the ticks across."""
    parts = []
    for tick in ticks(up.low, up.high):
        parts.append(_line(LEFT, up(tick), WIDTH - RIGHT, up(tick), "currentColor", 1, 0.15))
        parts.append(_text(LEFT - 6, up(tick) + 4, number(tick), "end"))
    for tick in ticks(across.low, across.high) if at is None else at:
        parts.append(_text(across(tick), HEIGHT - BOTTOM + 16, number(tick)))
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 6, x))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    turned = f"transform='rotate(-90 14 {middle:.0f})'"
    parts.append(f"<text x='14' y='{middle:.0f}' text-anchor='middle' {turned}>{escape(y)}</text>")
    return "".join(parts)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers in a range, some ``about`` of them."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    raw = span / about
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _widened(low: float, high: float, both: bool = True) -> tuple[float, float]:
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low - room if both or low < 0 else low), high + room


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, opacity: float = 1) -> str:
    faint = f" stroke-opacity='{opacity}'" if opacity < 1 else ""
    ends = f"x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}'"
    return f"<line {ends} stroke='{colour}' stroke-width='{width}'{faint}/>"


def _whisker(x: float, low: float, high: float, colour: str) -> str:
    caps = "".join(_line(x - 3, y, x + 3, y, colour, 1.2) for y in (low, high))
    return _line(x, low, x, high, colour, 1.2) + caps


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"


def _svg(parts: Sequence[str], title: str) -> str:
    drawn = f"<title>{escape(title)}</title>{''.join(parts)}"
    return f"<div class='wide'><svg viewBox='0 0 {WIDTH} {HEIGHT}' role='img'>{drawn}</svg></div>"
