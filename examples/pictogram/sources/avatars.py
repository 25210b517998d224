"""DiceBear avatars: monsters, potted plants, planets, landscapes, robots and people, drawn from attributes.

The captions say the attributes in words (``avatar_words.yaml``), ``meta`` holds them all. Pairs of
attribute values are withheld from training (``test_comp``): each value is seen, the pair is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from sources.drawing import (
    Name,
    Words,
    colour_name,
    fraction,
    load_json,
    render_svg,
    with_article,
    without_article,
)
from sources.sprites import Sprite
from sources.wording import avatar_wording

WORDINGS = 7  # other ways of saying an avatar, at most
WORDS = Path(__file__).with_name("avatar_words.yaml")
PAIRED = frozenset(
    (
        "top", "plant", "pot_color", "body_color", "planet_color", "surface", "hill4_color",
        "orb_color", "outfit", "hair", "hair_color", "clothing_color", "head", "expression", "eyes",
        "clothes", "clothes_color",
    )
)  # fmt: skip


@dataclass
class Avatar:
    """One avatar's options; what is said of it is noted in ``attributes``."""

    words: dict[str, Any]
    options: dict[str, Any]
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> Words:
        """What the style draws: "cute monster"."""
        return Words(*self.words["name"])

    def variant(self, part: str) -> str | None:
        """The variant drawn for a part, None if the part is absent."""
        return self.options.get(part + "Variant")

    def say(self, part: str) -> Words | None:
        """The words for the drawn variant, None if it stays unsaid."""
        variant = self.variant(part)
        pair = self.words["parts"].get(part, {}).get(variant) if variant else None
        if pair is None or variant is None:
            return None
        self.attributes[part] = variant
        return Words(*pair)

    def colour(self, part: str) -> Words | None:
        """The name of a part's colour, None if it has none."""
        codes = self.options.get(part + "Color")
        if not codes:
            return None
        name = colour_name(codes[0])
        self.attributes[f"{part}_color"] = name.en
        return name

    def must_say(self, part: str) -> Words:
        """:meth:`say` for a part that is always drawn and always has words."""
        words = self.say(part)
        assert words is not None, part
        return words

    def must_colour(self, part: str) -> Words:
        """:meth:`colour` for a part that always has one."""
        words = self.colour(part)
        assert words is not None, part
        return words


Opening = Callable[[Avatar], Words]


def _creature(avatar: Avatar) -> Words:
    colour, shape, name = avatar.must_colour("body"), avatar.say("body"), avatar.name
    en, zh = (f"{shape.en} ", f"{shape.zh}的") if shape else ("", "")
    return Words(f"{colour.en} {en}{name.en}", f"一个{colour.zh}的{zh}{name.zh}")


def _potted_plant(avatar: Avatar) -> Words:
    plant, pot, pot_colour = avatar.must_say("plant"), avatar.must_say("pot"), avatar.must_colour("pot")
    blooms = avatar.variant("plant") in ("flower", "tulip", "buds")
    bloom = avatar.must_colour("bloom") if blooms else Words("", "")
    en = f"{bloom.en} {without_article(plant.en)}".strip()
    verb = "开着" if blooms else "种着"
    return Words(
        f"{en} in {with_article(f'{pot_colour.en} {pot.en}')}",
        f"{pot_colour.zh}的{pot.zh}里{verb}{bloom.zh}{plant.zh}",
    )


def _planet(avatar: Avatar) -> Words:
    colour, surface = avatar.must_colour("planet"), avatar.say("surface")
    en, zh = (f"{surface.en} ", f"{surface.zh}的") if surface else ("", "")
    return Words(f"{en}{colour.en} planet in the starry sky", f"星空中一颗{zh}{colour.zh}行星")


def _landscape(avatar: Avatar) -> Words:
    variant = avatar.variant("hill4") or ""
    hill = Words(*avatar.words["parts"]["hill"][variant])
    colour = avatar.must_colour("hill4")
    avatar.attributes["hill"] = variant
    orb = avatar.say("orb")
    en, zh = " without a sun", "，天上没有太阳"
    if orb:
        orb_colour = avatar.must_colour("orb")
        en = f" under {with_article(f'{orb_colour.en} {orb.en}')}"
        zh = f"，天上有{orb_colour.zh}的{orb.zh}"
    return Words(f"landscape of {colour.en} {without_article(hill.en)}{en}", f"{colour.zh}的{hill.zh}{zh}")


def _voxel_person(avatar: Avatar) -> Words:
    top, outfit = avatar.say("top"), avatar.must_say("outfit")
    jacket = avatar.variant("outfit") in ("jacket", "coat", "suit")
    cloth = avatar.colour("jacket" if jacket else "shirt")
    hat = avatar.variant("top") in avatar.words["hats"]
    head = Words("no hair", "没有头发")
    if top:
        colour = avatar.colour("hat" if hat else "hair")
        en, zh = (f"{colour.en} ", f"{colour.zh}的") if colour else ("", "")
        head = Words(en + without_article(top.en), f"{'戴着' if hat else '留着'}{zh}{top.zh}")
    en, zh = (f"{cloth.en} ", cloth.zh) if cloth else ("", "")
    return Words(
        f"{avatar.name.en} with {head.en} wearing {with_article(en + outfit.en)}",
        f"{head.zh}、穿{zh}{outfit.zh}的{avatar.name.zh}",
    )


def _voxel_robot(avatar: Avatar) -> Words:
    body, glow, name = avatar.must_colour("body"), avatar.must_colour("glow"), avatar.name
    return Words(f"{body.en} {name.en} with {glow.en} lights", f"一个{body.zh}的{name.zh}，发{glow.zh}的光")


def _person(avatar: Avatar) -> Words:
    words = avatar.words
    covered = avatar.variant("hair") in words.get("hats", ())
    hair = avatar.colour("hair") if words.get("hair_colour") and not covered else None
    cloth = avatar.colour(words["clothes"]) if words.get("clothes") else None
    en, zh = avatar.name.en, f"一个{avatar.name.zh}"
    if hair:
        en, zh = f"{en} with {hair.en} hair", f"{zh}，{hair.zh}头发"
    if cloth:
        en, zh = f"{en} in {cloth.en} clothes", f"{zh}，穿{cloth.zh}衣服"
    return Words(en, zh)


def _dressed_person(avatar: Avatar) -> Words:
    person, colour, clothes = _person(avatar), avatar.must_colour("clothes"), avatar.must_say("clothes")
    wearing = with_article(f"{colour.en} {clothes.en}")
    return Words(f"{person.en} wearing {wearing}", f"{person.zh}，穿{colour.zh}{clothes.zh}")


OPENINGS: dict[str, Opening] = {
    "critters": _creature,
    "clay": _creature,
    "sprouts": _potted_plant,
    "planets": _planet,
    "landscape": _landscape,
    "voxel-art": _voxel_person,
    "voxel-bot": _voxel_robot,
    "open-peeps": _person,
    "personas": _person,
    "toon-head": _dressed_person,
    "big-smile": _person,
}


@dataclass(frozen=True)
class Description:
    """What is said of an avatar: the opening, the parts after it, and the colour behind it."""

    opening: Words
    said: list[Words]
    background: Words | None = None
    sky: bool = False
    loose: tuple[tuple[float, Words], ...] = ()

    @property
    def caption(self) -> Words:
        """All of it, in the one form of the corpus."""
        en = ", ".join([self.opening.en, *(words.en for words in self.said)])
        zh = "，".join([self.opening.zh, *(words.zh for words in self.said)])
        if self.background is None:
            return Words(en, zh)
        if self.sky:
            return Words(f"{en}, {self.background.en} sky", f"{zh}，{self.background.zh}的天空")
        behind = with_article(self.background.en)
        return Words(f"{en}, on {behind} background", f"{zh}，{self.background.zh}背景")


def describe(style: str, avatar: Avatar) -> Description:
    """What the corpus says of an avatar."""
    background = avatar.colour("background") if avatar.words.get("background") else None
    opening = OPENINGS[style](avatar)
    said = [words for part in avatar.words["order"] if (words := avatar.say(part))]
    return Description(opening, said, background, style == "landscape", tuple(_loose(avatar)))


def _loose(avatar: Avatar) -> Iterator[tuple[float, Words]]:
    """What of an opening people leave out, and how often other wordings do."""
    for part in ("body", "surface"):
        if part in avatar.attributes:
            yield 0.5, Words(*avatar.words["parts"][part][avatar.attributes[part]])
    for part in ("body", "planet"):
        if f"{part}_color" in avatar.attributes:
            yield 0.15, avatar.must_colour(part)


def reworded(key: str, words: dict[str, Any], described: Description) -> Words:
    """The caption, or less of it, in other words."""
    names = {
        tongue: [words["name"][place], *words["also"][place]] for place, tongue in enumerate(("en", "zh"))
    }
    return avatar_wording(
        key, names, described.opening, described.said, described.background, described.sky, described.loose
    )


def split_of(style: str, number: int, attributes: dict[str, str]) -> str:
    values = sorted(f"{part}={value}" for part, value in attributes.items() if part in PAIRED)
    """``test_comp`` for a withheld pair of attributes, else ``val`` or ``train``."""
    if any(fraction("pair", style, *pair) < 0.03 for pair in itertools.combinations(values, 2)):
        return "test_comp"
    return "val" if fraction("dv", style, number) < 0.01 else "train"


@dataclass(frozen=True)
class Portrait:
    """The picture of one avatar: a style of DiceBear and a number that seeds it."""

    style: str
    number: int

    def render(self, side: int, paint: str | None) -> Image.Image:
        """See :class:`~sources.sprites.Picture`; nothing here can be painted."""
        return render_svg(str(_drawn(self.style, self.number)), side)


def avatar_styles() -> list[str]:
    """The avatar styles that are drawn."""
    return list(_words())


def avatar_phrases() -> Iterator[Words]:
    """What the styles and the variants of their parts are called."""
    for style in _words().values():
        yield Words(*style["name"])
        yield from (Words(*pair) for part in style["parts"].values() for pair in part.values() if pair)


def avatar_sprite(style: str, number: int) -> Sprite:
    """The avatar of a number, a whole picture with its background."""
    words = _words()[style]
    avatar = Avatar(words, _drawn(style, number).to_json()["options"])
    described, key = describe(style, avatar), f"dice/{style}/{number}"
    others = (reworded(f"{key}:{n}" if n else key, words, described) for n in range(WORDINGS))
    return Sprite(
        key=key,
        source="dice",
        style=style,
        concept=f"dice:{style}",
        names=tuple(Name(name.en, name.zh) for name in dict.fromkeys((described.caption, *others))),
        licence=_definition(style)["meta"]["license"]["name"],
        split=split_of(style, number, avatar.attributes),
        picture=Portrait(style, number),
        mirror=False,
        recolour=False,
        meta=avatar.attributes,
    )


@cache
def _words() -> dict[str, dict[str, Any]]:
    words: dict[str, dict[str, Any]] = yaml.safe_load(WORDS.read_text("utf-8"))
    return words


@cache
def _definition(style: str) -> dict[str, Any]:
    definition: dict[str, Any] = load_json(style_folder() / f"{style}.json")
    return definition


@cache
def _drawer(style: str) -> Any:
    import dicebear

    return dicebear.Style(_definition(style))


def _drawn(style: str, number: int) -> Any:
    import dicebear

    return dicebear.Avatar(_drawer(style), {"seed": f"{style}-{number}"})


def style_folder() -> Path:
    """Where the installed ``dicebear-styles`` keeps its definitions."""
    import dicebear_styles

    return Path(next(iter(dicebear_styles.__path__)))
