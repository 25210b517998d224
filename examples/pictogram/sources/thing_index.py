"""Which drawings show which everyday thing (``things.yaml``), and what a sprite of one is called."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sources.drawing import Words
from sources.splits import drawing_split
from sources.sprites import Grammar, Picture, Sprite
from sources.styles import HOUSE, STYLES

Entry = Mapping[str, Any]


def normal(code_points: str) -> str:
    """Code points as "1F468-200D-1F692": upper case, without variation selectors."""
    return "-".join(part for part in code_points.upper().replace("_", "-").split("-") if part != "FE0F")


def grammar_of(entry: Entry) -> Grammar:
    """How a thing's names are used; a plural that is the name itself has no singular."""
    plural = entry.get("plural") is True or entry.get("plural") == entry["en"][0]
    return Grammar(entry.get("measure", "个").removeprefix("一"), plural, bool(entry.get("mass")))


class ThingIndex:
    """The things by their drawings. ``rare`` names the concepts and things withheld wholly."""

    def __init__(self, things: Mapping[str, Entry], rare: Collection[str] = ()) -> None:
        self.things, self.rare = things, frozenset(rare)
        self._emoji: dict[str, str] = {}
        self._icons: dict[tuple[str, str], str] = {}
        for thing, entry in things.items():
            for code_points in entry.get("emoji", ()):
                self._emoji.setdefault(normal(code_points), thing)
            for style, slugs in entry.get("icons", {}).items():
                for slug in slugs:
                    self._icons.setdefault((style, slug), thing)

        self._houses: dict[str, str] = {}  # the first that is met, where a set has two
        self._bare = {name.lower() for entry in things.values() for name in (*entry["en"], *entry["zh"])}

    def of_emoji(self, code_points: str) -> str | None:
        """The thing that an emoji shows."""
        return self._emoji.get(normal(code_points))

    def of_icon(self, icon_set: str, slug: str) -> str | None:
        """The thing that an icon of a set shows."""
        return self._icons.get((icon_set, slug))

    def is_house(self, thing: str, key: str, code_points: str | None) -> bool:
        """Whether a drawing is the one that the thing's bare name means."""
        entry = self.things[thing]
        emoji = entry.get("emoji", ())
        if entry.get("house"):
            meant = entry["house"] == key
        else:
            meant = bool(emoji) and key.startswith(f"{HOUSE}/") and normal(emoji[0]) == code_points
        return meant and self._houses.setdefault(thing, key) == key

    def is_bare(self, name: Words) -> bool:
        """Whether a name, in either language, means an everyday thing and so its house drawing."""
        return name.en.lower() in self._bare or name.zh in self._bare

    def names(self, thing: str) -> tuple[Words, ...]:
        """A thing's names in pairs; the shorter list begins again."""
        en, zh = self.things[thing]["en"], self.things[thing]["zh"]
        return tuple(Words(en[n % len(en)], zh[n % len(zh)]) for n in range(max(len(en), len(zh))))

    def sprite(
        self,
        key: str,
        thing: str | None,
        *,
        source: str,
        style: str,
        concept: str,
        names: tuple[Words, ...],
        picture: Picture,
        grammar: Grammar | None = None,
        mirror: bool = True,
        recolour: bool = True,
        paints: bool = False,
        meta: Mapping[str, Any] | None = None,
        licence: str | None = None,
    ) -> Sprite:
        """A sprite; the thing it shows decides its names and what its variants may.

        Other drawings in the house style keep their own names, as far as these mean no thing.
        """
        house, meta = False, meta or {}
        if thing:
            entry = self.things[thing]
            house = self.is_house(thing, key, meta.get("code"))
            mirror = entry.get("mirror", True)
            recolour = entry.get("recolour", True) and meta.get("group") != "people-body"
        if thing and (house or style != HOUSE):
            names, grammar = self.names(thing), grammar_of(self.things[thing])
        elif style == HOUSE:
            names = tuple(name for name in names if not self.is_bare(name))
        rare = bool(self.rare.intersection((thing, concept)))
        return Sprite(
            key=key,
            source=source,
            style=style,
            concept=concept,
            names=names,
            licence=licence or STYLES[style].licence,
            split=drawing_split(thing or concept, style, house, rare),
            picture=picture,
            grammar=grammar or Grammar(),
            thing=thing or "",
            house=house,
            mirror=mirror,
            recolour=recolour,
            paints=paints,
            meta=meta,
        )
