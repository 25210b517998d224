"""Which drawings show which everyday thing (``things.yaml``), and what a sprite of one is called."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from colours import PAINTS
from things import Thing

from sources.drawing import Name, Words
from sources.splits import drawing_split
from sources.sprites import Icon, Picture, Sprite
from sources.styles import HOUSE, STYLES


def normal(code_points: str) -> str:
    """Code points as "1F468-200D-1F692": upper case, without variation selectors."""
    return "-".join(part for part in code_points.upper().replace("_", "-").split("-") if part != "FE0F")


def names_of(thing: Thing) -> tuple[Name, ...]:
    """A thing's names in pairs, with their articles and measure words; the shorter list begins again."""
    pairs = []
    for place in range(max(len(thing.en), len(thing.zh))):
        en, zh = thing.en[place % len(thing.en)], thing.zh[place % len(thing.zh)]
        article = {"the": "the", "none": ""}.get(thing.article or "", "a")
        if en in thing.mass:
            article = ""
        elif thing.unit == "pair" and en.endswith("s"):
            article = "a pair of"
        pairs.append(Name(en, zh, article, thing.measure_of(zh)))
    return tuple(pairs)


class ThingIndex:
    """The things by their drawings. ``rare``: code points of emoji that are withheld wholly, and slugs."""

    def __init__(self, things: Mapping[str, Thing], rare: Collection[str] = ()) -> None:
        self.things, self.rare = things, frozenset(map(normal, rare))
        self._rare_slugs = re.compile(rf"\b({'|'.join(map(re.escape, rare)) or '$.'})\b")
        self._emoji = {normal(code): key for key, thing in things.items() for code in thing.emoji}
        self._icons = {
            (icon_set, slug): key
            for key, thing in things.items()
            for icon_set, slugs in thing.icons.items()
            for slug in slugs
        }
        for key, thing in things.items():
            icon_set, _, slug = thing.house.partition("/")
            if slug:
                self._icons[icon_set, slug] = key
        self._houses: dict[str, str] = {}  # the first that is met, where a set has two
        self._bare = {name.lower() for thing in things.values() for name in (*thing.en, *thing.zh)}

    def of_emoji(self, icon_set: str, code_points: str) -> str | None:
        """The thing that an emoji shows in a set."""
        code = normal(code_points)
        thing = self._emoji.get(code)
        return thing if thing and icon_set not in self.things[thing].not_in.get(code, ()) else None

    def of_icon(self, icon_set: str, slug: str) -> str | None:
        """The thing that an icon of a set shows."""
        return self._icons.get((icon_set, slug))

    def is_house(self, thing: str, key: str, code_points: str | None) -> bool:
        """Whether a drawing is the one that the thing's bare name means."""
        icon_set, drawing = self.things[thing].house_drawing
        style, _, slug = key.partition("/")
        meant = style == icon_set and drawing in (slug, code_points)
        return meant and self._houses.setdefault(thing, key) == key

    def is_rare(self, key: str, concept: str) -> bool:
        """Whether a drawing shows what is withheld wholly, by its code points or its slug."""
        return concept in self.rare or bool(self._rare_slugs.search(key.partition("/")[2]))

    def is_bare(self, name: Words) -> bool:
        """Whether a name, in either language, means an everyday thing and so its house drawing."""
        return name.en.lower() in self._bare or name.zh in self._bare

    def sprite(
        self,
        key: str,
        thing: str | None,
        *,
        source: str,
        style: str,
        concept: str,
        names: tuple[Name, ...],
        picture: Picture,
        mirror: bool = True,
        recolour: bool = True,
        paints: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> Sprite:
        """A sprite; the thing it shows decides its names and what its variants may.

        Other drawings in the house style keep their own names, as far as these mean no thing.
        """
        house, meta, aspects = False, meta or {}, ()
        if thing:
            entry = self.things[thing]
            house = self.is_house(thing, key, meta.get("code"))
            mirror = entry.mirror
            recolour = entry.recolour and meta.get("group") != "people-body"
            if house or style != HOUSE:
                names = names_of(entry)
            if house:
                aspects = entry.aspects
                if entry.paint and isinstance(picture, Icon):
                    picture = replace(picture, own=PAINTS[entry.paint])
        if style == HOUSE and not house:
            names = tuple(name for name in names if not self.is_bare(name))
        rare = not thing and self.is_rare(key, concept)
        return Sprite(
            key=key,
            source=source,
            style=style,
            concept=concept,
            names=names,
            licence=STYLES[style].licence,
            split=drawing_split(thing or concept, style, house, rare),
            picture=picture,
            thing=thing or "",
            house=house,
            mirror=mirror,
            recolour=recolour,
            paints=paints,
            aspects=aspects,
            meta=meta,
        )
