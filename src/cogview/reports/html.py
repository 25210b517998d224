"""Self-contained HTML pages: text, tables, images and plots in one file that asks nothing of a network.

A page is a list of sections of blocks; ``templates/page.html`` says how each block looks. Images are data
URIs; there are no scripts, and the page's own policy forbids them. All text is escaped.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

SMALLEST = 64  # pixels: an image is not shrunk below this to save space


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
    """Text as it stands."""

    kind: ClassVar[str] = "preformatted"
    text: str


@dataclass(frozen=True)
class Table:
    """A table that scrolls by itself where the page is narrow; numbers are shortened, long texts break."""

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Iterable[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """An image as a data URI; ``width``: in CSS pixels; ``enlarged`` ones keep hard pixels."""

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
    """Blocks to unfold."""

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
    """The whole document, with a table of contents where there are several sections."""
    template = environment("cogview.reports").get_template("page.html")
    return str(template.render(title=title, sections=sections, note=note))


def environment(package: str) -> Any:
    """Jinja's environment for the templates of a package: all values escaped, none may be missing."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["number"] = number
    return found


def number(value: object) -> str:
    """A value as a table shows it: floats with four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 10000 and math.isfinite(value) else f"{value:.4g}"
    return str(value)


def picture(image: Image.Image, limit: int, caption: str = "", width: int | None = None) -> Picture:
    """A figure of at most about ``limit`` bytes; an image that is larger is made a JPEG, and then smaller.

    width: how wide it is shown, in CSS pixels; small images keep hard pixels.
    """
    return Picture(data_uri(*encoded(image, limit)), caption, width, bool(width and width > image.width))


def data_uri(data: bytes, kind: str) -> str:
    """An image's bytes as an address; ``kind``: ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encoded(image: Image.Image, limit: int) -> tuple[bytes, str]:
    """The image's bytes and kind (``png`` or ``jpeg``), at most ``limit`` bytes in base64 if it can be."""
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
