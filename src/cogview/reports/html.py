"""Self-contained HTML pages: text, tables, images and plots in one file that needs no network.

A page is a list of sections of blocks; ``templates/page.html`` renders each kind of block. Images are data
URIs; there are no scripts, and the page's content security policy forbids them. All text is escaped.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

SMALLEST = 64  # an image is not downscaled below this side, in pixels


@dataclass(frozen=True)
class Text:
    """A paragraph; ``note``: in small type."""

    kind: ClassVar[str] = "text"
    text: str
    note: bool = True


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Preformatted:
    """Preformatted text."""

    kind: ClassVar[str] = "preformatted"
    text: str


@dataclass(frozen=True)
class Table:
    """A table that scrolls on narrow pages; numbers are rounded, long texts wrap."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Iterable[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI; ``width``: in CSS pixels; ``enlarged``: scale without smoothing."""

    kind: ClassVar[str] = "image"
    uri: str
    caption: str = ""
    width: int | None = None
    enlarged: bool = False


@dataclass(frozen=True)
class Plot:
    """A plot as inline SVG (:mod:`cogview.reports.plots`)."""

    kind: ClassVar[str] = "plot"
    svg: str


@dataclass(frozen=True)
class Details:
    """Collapsible blocks."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: Sequence[Block]


Block = Text | Heading | Preformatted | Table | Picture | Plot | Details


@dataclass(frozen=True)
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: Sequence[Block]


def page(title: str, sections: Sequence[Section], note: str = "") -> str:
    """The full document, with a table of contents if there are several sections."""
    template = environment("cogview.reports").get_template("page.html")
    return str(template.render(title=title, sections=sections, note=note))


def environment(package: str) -> Any:
    """A Jinja environment for the templates of a package: values are escaped, undefined ones are errors."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment


def number(value: object) -> str:
    """A value as a table cell: floats with four digits, "" for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10000 and math.isfinite(value) else f"{value:.4g}"
    return str(value)


def picture(image: Image.Image, limit: int, caption: str = "", width: int | None = None) -> Picture:
    """An image of at most about ``limit`` bytes; larger ones are converted to JPEG and then downscaled.

    width: display width in CSS pixels; smaller images are scaled without smoothing.
    """
    return Picture(data_uri(*encoded(image, limit)), caption, width, bool(width and width > image.width))


def data_uri(data: bytes, kind: str) -> str:
    """An image's bytes as a data URI; ``kind``: ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(image: Image.Image, limit: int) -> tuple[bytes, str]:
    """The encoded image and its kind (``png`` or ``jpeg``), at most ``limit`` bytes in base64 if possible."""
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
