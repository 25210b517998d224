"""Open Clip Art: public-domain drawings with English titles alone, so they serve the image tokenizer only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sources.drawing import Name, slug
from sources.sprites import File, Sprite
from sources.thing_index import ThingIndex

FOLDER = "openclipart-svg/usr/share/openclipart/svg"
MAX_BYTES = 600_000
SKIPPED = re.compile(
    r"^(computer|shapes|special|unsorted|signs_and_symbols/(flags|led|map_symbols)|decorations|office/"
    r"|recreation/games/cards|transportation/(aiga|roadsigns))|theme"
)
NO_TITLE = re.compile(r"clip ?art|collection|icons|untitled|^\W*$|part of|aiga|svg|hash", re.IGNORECASE)


def clipart_sprites(packages: Path, things: ThingIndex) -> Iterator[Sprite]:
    """The drawings of things; interface elements, flags, cards and the like are left out."""
    root = packages / FOLDER
    for path in sorted(root.rglob("*.svg")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink() or SKIPPED.search(name) or path.stat().st_size > MAX_BYTES:
            continue
        title = _title(path.read_text("utf-8", "replace"), path.stem)
        if 2 <= len(title) <= 50:
            yield _sprite(things, path, name, Name(title, ""))


def _title(svg: str, stem: str) -> str:
    match = re.search(r"<dc:title[^>]*>([^<]+)<", svg)
    title = match[1].strip() if match else ""
    if not title or NO_TITLE.search(title):
        title = re.sub(r"(_[a-z]+_[a-z]+_?\d*|_?\d+)$", "", stem)  # the author's name and a number
        title = re.sub(r"[_\-]+", " ", title).strip()
    title = re.sub(r"\s+", " ", re.sub(r"_+", " ", title)).strip(" .").lower()
    return re.sub(r"\s*\d+$", "", title)


def _sprite(things: ThingIndex, path: Path, name: str, title: Name) -> Sprite:
    return things.sprite(
        "openclipart/" + name.removesuffix(".svg"),
        None,
        source="clip",
        style="openclipart",
        concept="clip:" + slug(title.en),
        names=(),
        picture=File(path),
        recolour=False,
        meta={"category": name.rpartition("/")[0]},
    )
