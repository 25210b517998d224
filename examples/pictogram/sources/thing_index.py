"""Which drawings show which everyday thing (``things.yaml``), and what a sprite of one is called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
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
        self._house: dict[str, str] = {}
        self._bare: dict[Words, str] = {}
        for thing, entry in things.items():
            for code_points in entry.get("emoji", ()):
                self._emoji.setdefault(normal(code_points), thing)
            for style, slugs in entry.get("icons", {}).items():
                for slug in slugs:
                    self._icons.setdefault((style, slug), thing)

    def of_emoji(self, code_points: str) -> str | None:
        """The thing that an emoji shows."""
        return self._emoji.get(normal(code_points))

    def of_icon(self, icon_set: str, slug: str) -> str | None:
        """The thing that an icon of a set shows."""
        return self._icons.get((icon_set, slug))

    def is_house(self, thing: str, key: str, code_points: str | None) -> bool:
        """Whether a drawing is the one that the thing's bare name means."""
        entry = self.things[thing]
        if entry.get("house"):
            return bool(entry["house"] == key)
        emoji = entry.get("emoji", ())
        return bool(emoji) and key.startswith(f"{HOUSE}/") and normal(emoji[0]) == code_points

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
        """A sprite; the thing it shows decides its names and what its variants may."""
        house, meta = False, meta or {}
        if thing:
            entry = self.things[thing]
            house, names = self.is_house(thing, key, meta.get("code")), self.names(thing)
            grammar = grammar_of(entry)
            mirror = entry.get("mirror", True)
            recolour = entry.get("recolour", True) and meta.get("group") != "people-body"
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


def one_house_each(sprites: Iterator[Sprite]) -> Iterator[Sprite]:
    """The sprites, with at most one house drawing a thing: the first."""
    from dataclasses import replace

    seen = set[str]()
    for sprite in sprites:
        if sprite.house and sprite.thing in seen:
            sprite = replace(sprite, house=False)
        seen |= {sprite.thing} if sprite.house else set()
        yield sprite
