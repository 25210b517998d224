"""IconPark: icons with Chinese titles by their designers, recoloured to bind colours to things."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sources.drawing import COLOURS, Drawing, Words, fraction, iconify_svg, load_json, render_svg
from sources.wording import icon_wordings

FILL, SECOND_FILL = "#2F88FF", "#43CCF8"
PAINTS = {
    "red": "#e03131",
    "orange": "#fd7e14",
    "yellow": "#fcc419",
    "green": "#40c057",
    "cyan": "#22b8cf",
    "blue": FILL,
    "purple": "#845ef7",
    "pink": "#f783ac",
    "brown": "#8d5a2b",
    "gray": "#adb5bd",
}
COLOURS_PER_ICON = 4
PICTORIAL = frozenset(
    (
        "Foods", "Animals", "Travel", "Sports", "Clothes", "Health", "Build", "Music", "Baby",
        "Makeups", "Emoji", "Game", "Hands", "Energy", "Industry", "Life", "Time", "Weather",
        "Measurement", "Constellation", "Peoples", "Hardware", "Others", "Graphics", "Money",
    )
)  # fmt: skip
NUMBER = "(one|two|three|four|five|six|seven|eight|nine|ten|[0-9]+)"


def icon_drawings(packages: Path) -> Iterator[Drawing]:
    """Every icon but brands; those with a fill in blue and three more colours."""
    icons = load_json(packages / "icon-park" / "icons.json")
    for entry in load_json(packages / "icon-park-svg" / "icons.json"):
        if entry["name"] in icons["icons"] and entry["category"] != "Brand":
            for colour in _colours(entry["name"], icons["icons"][entry["name"]]["body"]):
                yield _drawing(icons, entry, colour)


def _colours(name: str, body: str) -> list[str | None]:
    if FILL not in body:
        return [None]
    others = [colour for colour in PAINTS if colour != "blue"]
    return ["blue", *random.Random(name).sample(others, COLOURS_PER_ICON - 1)]


def _titles(entry: dict[str, Any]) -> Words:
    title = entry["title"].strip()
    zh = re.sub(r"[-－_ ]*[0-9０-９一二三四五]?$", "", title) or title
    en = re.sub(rf"-{NUMBER}$", "", entry["name"]).replace("-", " ")
    return Words(re.sub(r"^an? ", "", en), zh)


def _coloured(title: Words, colour: str | None) -> Words:
    if colour is None:
        return title
    return Words(f"{colour} {title.en}", f"{COLOURS[colour]}{'的' if len(title.zh) > 1 else ''}{title.zh}")


def _split(name: str, colour: str | None) -> str:
    if fraction("icon", name) < 0.02:
        return "test_concept"
    if colour not in (None, "blue") and fraction("ic", name, colour) < 0.08:
        return "test_comp"
    return "val" if fraction("iv", name, colour) < 0.01 else "train"


def _draw(icons: dict[str, Any], name: str, colour: str | None) -> Image.Image:
    body = icons["icons"][name]["body"]
    if colour:
        body = body.replace(FILL, PAINTS[colour]).replace(SECOND_FILL, PAINTS[colour])
    return render_svg(iconify_svg(icons, name, body))


def _drawing(icons: dict[str, Any], entry: dict[str, Any], colour: str | None) -> Drawing:
    name, title = entry["name"], _titles(entry)
    return Drawing(
        key=f"icon/{name}/{colour or 'line'}",
        source="icon",
        style="icon-park",
        style_words=Words("icon", "图标"),
        concept="iconpark:" + re.sub(rf"-{NUMBER}$", "", name),
        caption=_coloured(title, colour),
        licence="Apache-2.0",
        split=_split(name, colour),
        draw=partial(_draw, icons, name, colour),
        en_keywords=[title.en],
        zh_keywords=[title.zh, *filter(None, (tag.strip() for tag in entry["tag"]))],
        wordings=icon_wordings(f"icon/{name}/{colour or 'line'}", title, colour),
        meta={
            "category": entry["category"],
            "category_zh": entry["categoryCN"],
            "color": colour,
            "pictorial": entry["category"] in PICTORIAL,
        },
    )
