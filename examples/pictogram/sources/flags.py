"""Round flags of the territories that Unicode's CLDR names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sources.drawing import Name, Words, load_json, without_article
from sources.sprites import Icon, Sprite, icon_set
from sources.thing_index import ThingIndex


def flag_sprites(packages: Path, things: ThingIndex) -> Iterator[Sprite]:
    """Every two-letter flag with an English and a Chinese name."""
    folder = packages / "circle-flags"
    names = {locale: _territories(packages, locale) for locale in ("en", "zh")}
    for icon in icon_set(folder)["icons"]:
        code = icon.upper()
        if len(icon) == 2 and code in names["en"] and code in names["zh"]:
            yield _sprite(folder, things, icon, Words(names["en"][code], names["zh"][code]))


def _territories(packages: Path, locale: str) -> dict[str, str]:
    data = load_json(packages / "cldr-names" / "main" / locale / "territories.json")
    territories: dict[str, str] = data["main"][locale]["localeDisplayNames"]["territories"]
    return territories


def _sprite(folder: Path, things: ThingIndex, icon: str, name: Words) -> Sprite:
    concept = "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in icon.upper())
    return things.sprite(
        f"circle-flags/{icon}",
        None,
        source="flag",
        style="circle-flags",
        concept=concept,
        names=(
            Name(f"flag of {name.en}", f"{name.zh}的旗帜", "the"),
            Name(f"flag of {without_article(name.en)}", f"{name.zh}国旗", "the"),
            Name(f"{name.en} flag", f"{name.zh}旗", "the"),
        ),
        picture=Icon(folder, icon),
        mirror=False,
        recolour=False,
        meta={"territory": icon.upper()},
    )
