"""Open Clip Art: public-domain drawings with English titles (Chinese where an emoji has the same name)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from PIL import Image

from sources.drawing import Drawing, Words, fraction, render_any_svg, slug, square, trim
from sources.emoji import EmojiNames

FOLDER = "openclipart-svg/usr/share/openclipart/svg"
MAX_BYTES = 600_000
SKIPPED = re.compile(
    r"^(computer|shapes|special|unsorted|signs_and_symbols/(flags|led|map_symbols)|decorations|office/"
    r"|recreation/games/cards|transportation/(aiga|roadsigns))|theme"
)
NO_TITLE = re.compile(r"clip ?art|collection|icons|untitled|^\W*$|part of|aiga|svg|hash", re.IGNORECASE)
NO_KEYWORD = frozenset(("hash", "unsorted", "icon", "theme", "clip_art"))


def clipart_drawings(packages: Path) -> Iterator[Drawing]:
    """The drawings of things; interface elements, flags, cards and the like are left out."""
    chinese = EmojiNames(packages).titles()
    root = packages / FOLDER
    for path in sorted(root.rglob("*.svg")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or SKIPPED.search(name) or path.stat().st_size > MAX_BYTES:
            continue
        text = path.read_text("utf-8", "replace")
        title = _title(text, path.stem)
        if 2 <= len(title) <= 50:
            yield _drawing(path, name, Words(title, chinese.get(title, "")), _keywords(text))


def _title(svg: str, stem: str) -> str:
    match = re.search(r"<dc:title[^>]*>([^<]+)<", svg)
    title = match[1].strip() if match else ""
    if not title or NO_TITLE.search(title):
        title = re.sub(r"(_[a-z]+_[a-z]+_?\d*|_?\d+)$", "", stem)  # the author's name and a number
        title = re.sub(r"[_\-]+", " ", title).strip()
    title = re.sub(r"\s+", " ", re.sub(r"_+", " ", title)).strip(" .").lower()
    return re.sub(r"\s*\d+$", "", title)


def _keywords(svg: str) -> list[str]:
    found = re.findall(r"<rdf:li[^>]*>([^<]+)<", svg)
    return [word for word in found if word not in NO_KEYWORD][:8]


def _draw(path: Path) -> Image.Image:
    return square(trim(render_any_svg(path.read_bytes(), 320)))


def _drawing(path: Path, name: str, title: Words, keywords: list[str]) -> Drawing:
    return Drawing(
        key="clip/" + name.removesuffix(".svg"),
        source="clip",
        style="openclipart",
        style_words=Words("clip art", "剪贴画"),
        concept="clip:" + slug(title.en),
        caption=title,
        licence="public domain",
        split="val" if fraction("clip", name) < 0.02 else "train",
        draw=partial(_draw, path),
        en_keywords=keywords,
        meta={"category": name.rpartition("/")[0]},
    )
