"""Round flags of the territories that Unicode's CLDR names."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sources.drawing import Drawing, Words, iconify_svg, load_json, render_svg
from sources.emoji import split_of
from sources.wording import flag_wordings


def flag_drawings(packages: Path) -> Iterator[Drawing]:
    """Every two-letter flag with an English and a Chinese name."""
    icons = load_json(packages / "circle-flags" / "icons.json")
    names = {locale: _territories(packages, locale) for locale in ("en", "zh")}
    for icon in icons["icons"]:
        code = icon.upper()
        if len(icon) == 2 and code in names["en"] and code in names["zh"]:
            yield _drawing(icons, icon, Words(names["en"][code], names["zh"][code]))


def _territories(packages: Path, locale: str) -> dict[str, str]:
    data = load_json(packages / "cldr-names" / "main" / locale / "territories.json")
    territories: dict[str, str] = data["main"][locale]["localeDisplayNames"]["territories"]
    return territories


def _draw(icons: dict[str, Any], icon: str) -> Image.Image:
    return render_svg(iconify_svg(icons, icon))


def _drawing(icons: dict[str, Any], icon: str, name: Words) -> Drawing:
    concept = "-".join(f"{0x1F1E6 + ord(letter) - ord('A'):X}" for letter in icon.upper())
    return Drawing(
        key=f"flag/circle/{icon}",
        source="flag",
        style="circle-flags",
        style_words=Words("round", "圆形"),
        concept=concept,
        caption=Words(f"flag of {name.en}", f"{name.zh}的旗帜"),
        licence="MIT",
        split=split_of(concept, "circle-flags", concept, 1),
        draw=partial(_draw, icons, icon),
        en_keywords=["flag"],
        zh_keywords=["国旗"],
        wordings=flag_wordings(name),
        meta={"territory": icon.upper()},
    )
