"""Icon sets with English slugs: Streamline's coloured ones, Game Icons, Meteocons, Flat Color Icons, Fluent.

A slug gets a Chinese name where Unicode, IconPark or ``icon_words.yaml`` has one for it; drawings without one
have no names and serve the image tokenizer only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import yaml

from sources.drawing import Name, Words
from sources.emoji import emoji_names
from sources.icons import PICTORIAL, icon_titles
from sources.sprites import Icon, Sprite, icon_set
from sources.thing_index import ThingIndex

STREAMLINE = tuple(
    f"streamline-{name}color"
    for name in (
        "",
        "plump-",
        "flex-",
        "sharp-",
        "ultimate-",
        "freehand-",
        "cyber-",
        "kameleon-",
        "stickies-",
    )
)
SETS = (*STREAMLINE, "flat-color-icons", "meteocons", "fluent-color")
LOOKS = {
    **{f"streamline-{name}color": {"flat": "-flat"} for name in ("", "plump-", "flex-", "sharp-")},
    "streamline-kameleon-color": {"duo": "-duo"},
    "streamline-stickies-color": {"duo": "-duo"},
    "meteocons": {"": "-line", "fill": ""},
}
WORDS = Path(__file__).with_name("icon_words.yaml")
WEATHER = frozenset(
    (
        "clear day", "cloudy", "overcast", "rain", "snow", "sleet", "hail", "fog", "mist", "haze", "smoke",
        "drizzle", "wind", "humidity", "dust", "money", "grass", "meat", "bread", "milk", "corn", "garlic",
    )
)  # fmt: skip
SUFFIX = re.compile(r"-(flat|duo|fill)$")
LETTERED = re.compile(r"\d|[a-z]-?\b(letter|text|logo|keyboard|code|sign|calendar|clock|time|abc)\b|logo")


@cache
def slug_names(packages: Path) -> SlugNames:
    """Names of slugs, with those that some unpacked packages give."""
    return SlugNames(packages)


class SlugNames:
    """Names of slugs in both languages."""

    def __init__(self, packages: Path) -> None:
        words = yaml.safe_load(WORDS.read_text("utf-8"))
        self.qualities: dict[str, str] = words["qualities"]
        self.nouns: dict[str, str] = {**emoji_names(packages).titles(), **words["nouns"]}
        self.whole: dict[str, str] = {**icon_titles(packages, PICTORIAL), **self.nouns}

    def find(self, slug: str) -> Words | None:
        """The name that a slug says: one known here, or a noun with any qualities before it."""
        words = re.sub(r"-\d+$", "", SUFFIX.sub("", slug)).split("-")
        if " ".join(words) in self.whole:
            return Words(" ".join(words), self.whole[" ".join(words)])
        for place in range(1, len(words)):
            noun = " ".join(words[place:])
            if noun in self.nouns and all(word in self.qualities for word in words[:place]):
                zh = "".join(self.qualities[word] for word in words[:place]) + self.nouns[noun]
                return Words(" ".join(words), zh)
        return None


def look(icon_set_name: str, slug: str) -> str:
    """The style of one icon: some sets hold two looks, told by the slug's end."""
    match = SUFFIX.search(slug)
    return icon_set_name + LOOKS.get(icon_set_name, {}).get(match[1] if match else "", "")


def icon_set_sprites(packages: Path, things: ThingIndex) -> Iterator[Sprite]:
    """The coloured icon sets."""
    names = slug_names(packages)
    for name in SETS:
        folder = packages / name
        for slug in icon_set(folder)["icons"]:
            if not icon_set(folder)["icons"][slug].get("hidden"):
                yield _sprite(names, things, folder, slug)


def game_icon_sprites(packages: Path, things: ThingIndex) -> Iterator[Sprite]:
    """Game Icons: silhouettes in one colour that can be painted."""
    names, folder = slug_names(packages), packages / "game-icons"
    for slug in icon_set(folder)["icons"]:
        yield _sprite(names, things, folder, slug, ("currentColor",))


def _sprite(
    names: SlugNames, things: ThingIndex, folder: Path, slug: str, paints: tuple[str, ...] = ()
) -> Sprite:
    base, found = SUFFIX.sub("", slug), names.find(slug)
    plain = folder.name == "fluent-color"
    return things.sprite(
        f"{folder.name}/{slug}",
        None if plain else things.of_icon(folder.name, slug) or things.of_icon(folder.name, base),
        source="game" if paints else "icons",
        style=look(folder.name, slug),
        concept="icon:" + (found.en.replace(" ", "-") if found else re.sub(r"-\d+$", "", base)),
        names=(Name(found.en, found.zh, *_counted(found)),) if found and not plain else (),
        picture=Icon(folder, slug, paints=paints),
        mirror=not LETTERED.search(slug),
        recolour=bool(paints),
        paints=bool(paints),
    )


def _counted(name: Words) -> tuple[str, str]:
    """Article and measure word: none for plurals and the weather."""
    return ("", "") if re.search(r"[^s]s$", name.en) or name.en in WEATHER else ("a", "个")
