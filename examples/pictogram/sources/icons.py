"""IconPark: icons with Chinese titles by their designers, recoloured to bind colours to things."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from sources.drawing import Name, load_json
from sources.sprites import Icon, Sprite, icon_set
from sources.thing_index import ThingIndex

FILL, SECOND_FILL = "#2F88FF", "#43CCF8"
PICTORIAL = frozenset(
    (
        "Foods", "Animals", "Travel", "Sports", "Clothes", "Health", "Build", "Music", "Baby",
        "Makeups", "Emoji", "Game", "Hands", "Energy", "Industry", "Life", "Time", "Weather",
        "Measurement", "Constellation", "Peoples", "Hardware", "Others", "Graphics", "Money",
    )
)  # fmt: skip
COUNTED = frozenset(("Foods", "Animals", "Clothes", "Music", "Baby", "Makeups", "Build", "Hardware"))
NUMBER = "(one|two|three|four|five|six|seven|eight|nine|ten|[0-9]+)"


def icon_sprites(packages: Path, things: ThingIndex) -> Iterator[Sprite]:
    """Every icon but brands; those with a fill can be painted."""
    folder = packages / "icon-park"
    icons = icon_set(folder)["icons"]
    for entry in load_json(packages / "icon-park-svg" / "icons.json"):
        if entry["name"] in icons and entry["category"] != "Brand":
            yield _sprite(folder, things, entry, FILL in icons[entry["name"]]["body"])


def icon_titles(packages: Path, categories: Collection[str]) -> dict[str, str]:
    """English name to Chinese title of the icons of some categories."""
    entries = load_json(packages / "icon-park-svg" / "icons.json")
    titles = [_titles(entry) for entry in entries if entry["category"] in categories]
    return {title.en: title.zh for title in titles}


def _titles(entry: dict[str, Any]) -> Name:
    title = entry["title"].strip()
    zh = re.sub(r"[-－_ ]*[0-9０-９一二三四五]?$", "", title) or title
    en = re.sub(rf"-{NUMBER}$", "", entry["name"]).replace("-", " ")
    article, measure = ("a", "个") if entry["category"] in COUNTED else ("", "")
    return Name(re.sub(r"^an? ", "", en), zh, article, measure)


def _sprite(folder: Path, things: ThingIndex, entry: dict[str, Any], filled: bool) -> Sprite:
    name = entry["name"]
    return things.sprite(
        f"icon-park/{name}",
        things.of_icon("icon-park", name),
        source="icon",
        style="icon-park",
        concept="iconpark:" + re.sub(rf"-{NUMBER}$", "", name),
        names=(_titles(entry),),
        picture=Icon(folder, name, paints=(FILL, SECOND_FILL) if filled else ()),
        mirror=False,
        recolour=filled,
        paints=filled,
        meta={"category": entry["category"], "pictorial": entry["category"] in PICTORIAL},
    )
