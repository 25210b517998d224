"""The everyday things that scenes are composed of, from their entries, house drawings and measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from colours import shares
from plan import Facts
from things import Thing, many, one

from sources.drawing import COLOURS
from sources.scene_layout import Outline
from sources.scenes import Noun, SceneThing
from sources.sprites import Sprite

LEFT_OUT = frozenset(("landscape",))  # groups whose drawings are whole views, not things
FULL = 0.97  # share of its box that a view fills
SUPPORTS = frozenset(  # whose house drawing has a top that something can stand on
    (
        "table", "chair", "bed", "sofa", "bench", "desk", "cardboard-box", "briefcase", "car",
        "bus", "truck", "taxi", "tram", "train", "minivan", "pickup-truck", "ship", "skateboard", "drum",
        "tv", "gift", "cake", "horse", "elephant", "camel", "turtle", "pig", "cow", "plate",
        "bathtub", "washing-machine", "refrigerator", "radio", "bucket", "bookshelf", "printer",
        "treasure-chest", "pumpkin", "house", "cheese", "bread", "pancakes", "hamburger", "tank", "tractor",
    )
)  # fmt: skip


def cast(
    sprites: Iterable[Sprite], facts: Mapping[str, Facts], things: Mapping[str, Thing]
) -> list[SceneThing]:
    """The things whose house drawing is trained on and shows a thing, not a view."""
    found = []
    for sprite in sprites:
        thing, fact = things[sprite.thing], facts[sprite.key]
        if sprite.split != "train" or thing.group in LEFT_OUT or not fact.pixels:
            continue
        outline = Outline.of(sprite.cut())
        if outline.filled < FULL:
            found.append(_thing(sprite, thing, fact, outline))
    return found


def _thing(sprite: Sprite, thing: Thing, fact: Facts, outline: Outline) -> SceneThing:
    natural = [words.en for words in thing.aspects if words.en in COLOURS]
    return SceneThing(
        key=thing.key,
        group=thing.group,
        en=tuple(noun(thing, name) for name in thing.en),
        zh=tuple((name, thing.measure_of(name)) for name in thing.zh),
        outline=outline,
        own=next(iter(shares(sprite.cut()))),
        natural=natural[0] if len(natural) == 1 else None,
        colours=tuple(colour for colour in fact.takes if colour not in natural),
        mirror=thing.mirror,
        support=thing.key in SUPPORTS,
    )


def noun(thing: Thing, name: str) -> Noun:
    """One of a thing's English names with what stands before it."""
    several = many(thing, 2, name).removeprefix("two ") if thing.countable(name) else None
    if one(thing, name) == name:
        return Noun(name, several, "")
    if several and several.startswith("pairs of "):
        return Noun(name, several.removeprefix("pairs of "), unit="pair")
    return Noun(name, several, "the" if one(thing, name).startswith("the ") else "a")
