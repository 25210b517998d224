"""The everyday things of things.yaml: their names in English and Chinese, and the drawings that show them.

What people type first into an image generator: every class of COCO and CIFAR-100 that a picture set has a
drawing of, then what else is asked for daily. Captions, withheld splits and the judge are built on this list.
``rare.yaml`` lists emoji that no training picture shows, ``classes.yaml`` the classes of COCO and CIFAR-100.

    things = load_things()
    one(things["apple"], "apple", "red")     # "a red apple"
    many(things["cat"], 2, "猫")              # "两只猫"

Fields of an entry:

``en``, ``zh``  names, the first is what people say; no name belongs to two things
``measure``     Chinese measure word; ``measures`` gives single names another one, or "" where they take none
``plural``      of the first English name, where ``plural_of`` does not find it
``mass``        true, or the English names that take neither article nor number: "bread", "French fries"
``unit``        "pair": an English name ending in "s" is counted in pairs: "a pair of scissors"
``article``     "the" ("the sun") or "none" ("Santa Claus") instead of "a" or "an"
``group``       what kind of thing it is
``house``       the drawing that a bare name means: an emoji set, or SET/SLUG; otherwise Noto's emoji
``paint``       the colour in which a house drawing of one colour is painted
``emoji``       code points (without FE0F) that show the thing, the best first
``not_in``      code points to the emoji sets whose drawing shows something else
``icons``       picture sets to the slugs of further drawings
``mirror``      false where the mirror image would be wrong: texts, clocks, maps
``recolour``    false where "a green ..." is no sensible picture: faces, people, a rainbow
``aspects``     what the house drawing visibly has: a colour of ``COLOURS``, said before the name, or a part,
                said after "with" (in Chinese as 有...的)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from sources.drawing import COLOURS, Words
from sources.drawing import slug as slug_of

HERE = Path(__file__).parent
THINGS, RARE, CLASSES = HERE / "things.yaml", HERE / "rare.yaml", HERE / "classes.yaml"
EMOJI_SETS = (
    "noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-3d", "emojione", "fxemoji",
    "streamline-emojis",
)  # fmt: skip
ICON_SETS = (
    "streamline-color", "streamline-plump-color", "streamline-flex-color", "streamline-sharp-color",
    "streamline-ultimate-color", "streamline-freehand-color", "streamline-cyber-color",
    "streamline-kameleon-color", "streamline-stickies-color", "flat-color-icons", "meteocons", "game-icons",
    "icon-park",
)  # fmt: skip
GROUPS = (
    "animal", "plant", "fruit", "vegetable", "food", "drink", "kitchen", "vehicle", "building", "household",
    "clothes", "device", "office", "tool", "instrument", "toy", "sport", "sky", "landscape", "face", "body",
    "person", "fantasy", "symbol",
)  # fmt: skip

CODE_POINTS = re.compile(r"[0-9A-F]{4,5}(-[0-9A-F]{4,5})*")
HAN = re.compile(r"[㐀-鿿]")
COLOUR_WORDS = re.compile(rf"\b({'|'.join(COLOURS)}|grey|gold(en)?)\b", re.IGNORECASE)
COLOUR_CHARACTERS = re.compile("[红橙黄绿青蓝紫粉棕黑白灰金]")

EN_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ZH_NUMBERS = ("零", "一", "两", "三", "四", "五", "六", "七", "八", "九", "十")

IRREGULAR = {
    "child": "children", "chili": "chilies", "chilli": "chillies", "deer": "deer", "die": "dice",
    "foot": "feet", "goose": "geese", "gyoza": "gyoza", "half": "halves", "human": "humans",
    "jiaozi": "jiaozi", "knife": "knives", "leaf": "leaves", "loaf": "loaves", "mango": "mangoes",
    "monarch": "monarchs", "mouse": "mice", "onigiri": "onigiri", "ox": "oxen", "person": "people",
    "potato": "potatoes", "sakura": "sakura", "salmon": "salmon", "scarf": "scarves", "sheep": "sheep",
    "spacecraft": "spacecraft", "tomato": "tomatoes", "tooth": "teeth", "tornado": "tornadoes",
    "trout": "trout", "volcano": "volcanoes", "wolf": "wolves",
}  # fmt: skip
IRREGULAR_ENDINGS = (("fish", "fish"), ("hero", "heroes"), ("man", "men"), ("shelf", "shelves"))
NOUN_AND_REST = re.compile(
    r"(.+?)( (?:of|with|in|on|over|at|behind) .+)|(\w+)( \w{3,}ing .+)|(person|woman|man)( \w+ing)"
)
SPELLED_LIKE_AN = re.compile(r"hour|heir|honest|honou?r")
SPELLED_LIKE_A = re.compile(r"uni(?![dmn])|us[eu]|ute|uf|uku|eu|ewe|one\b")
INITIALS = re.compile(r"[A-Z]+(?![a-z])")
NUMERAL = re.compile(r"(8|11|18)(?!\d)|8\d")


class ThingsError(ValueError):
    """An entry of one of the lists is wrong: which entry, and what to change."""


@dataclass(frozen=True)
class Thing:
    """One entry of things.yaml; the module's docstring explains the fields."""

    key: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    measure: str
    group: str
    measures: Mapping[str, str] = field(default_factory=dict)
    plural: str | None = None
    mass: frozenset[str] = frozenset()
    unit: str | None = None
    article: str | None = None
    house: str = "noto"
    paint: str | None = None
    emoji: tuple[str, ...] = ()
    not_in: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    icons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mirror: bool = True
    recolour: bool = True
    aspects: tuple[Words, ...] = ()

    @property
    def house_drawing(self) -> tuple[str, str]:
        """The set of the house drawing and, in it, a slug or (in an emoji set) code points."""
        icon_set, _, slug = self.house.partition("/")
        return icon_set, slug or self.emoji[0]

    def names(self, language: str, colourless: bool = False) -> tuple[str, ...]:
        """The names in "en" or "zh"; ``colourless`` leaves out those that say a colour ("red lantern").

        The first name always stays: a tomato is 西红柿 in any colour.
        """
        names = self.en if language == "en" else self.zh
        colour = COLOUR_WORDS if language == "en" else COLOUR_CHARACTERS
        return tuple(name for name in names if name == names[0] or not (colourless and colour.search(name)))

    def countable(self, name: str) -> bool:
        """Whether ``many`` can count the thing under this name."""
        if name in self.zh:
            return bool(self.measure_of(name))
        return name in self.en and name not in self.mass and self.article != "none"

    def measure_of(self, name: str) -> str:
        """The measure word of a Chinese name, "" if it takes none."""
        return self.measures.get(name, self.measure)


@dataclass(frozen=True)
class Rare:
    """One entry of rare.yaml: an emoji that no training picture shows."""

    key: str
    en: str
    zh: str
    emoji: str


# ---------------------------------------------------------------------------------------------- language


def one(thing: Thing, name: str, colour: str | None = None) -> str:
    """The thing once, by one of its names: "a red car", "an apple", "bread", 一只红色的猫.

    ``colour`` is a key of ``COLOURS``; the language is the name's. Raises ValueError for a name or a colour
    that is not known.
    """
    if name in thing.zh:
        return _one_zh(thing, name, colour)
    text = _coloured(_known(thing, name), colour)
    if name in thing.mass or thing.article == "none":
        return text
    if _in_pairs(thing, name):
        return f"a pair of {text}"
    return f"the {text}" if thing.article == "the" and colour is None else with_article(text)


def many(thing: Thing, n: int, name: str, colour: str | None = None) -> str:
    """The thing ``n`` times, 2 to 10: "three cars", 三辆汽车, "two pairs of scissors", 两把剪刀.

    Raises ValueError where the name cannot be counted (see ``Thing.countable``).
    """
    if not 2 <= n <= 10:
        raise ValueError(f"{n} is not between 2 and 10")
    _known(thing, name)
    if not thing.countable(name):
        raise ValueError(f"{name!r} of {thing.key!r} cannot be counted")
    if name in thing.zh:
        return f"{ZH_NUMBERS[n]}{thing.measure_of(name)}{_coloured_zh(name, colour)}"
    if _in_pairs(thing, name):
        return f"{EN_NUMBERS[n]} pairs of {_coloured(name, colour)}"
    plural = thing.plural if thing.plural and name == thing.en[0] else plural_of(name)
    return f"{EN_NUMBERS[n]} {_coloured(plural, colour)}"


def with_article(text: str) -> str:
    """The text with "a" or "an", by its sound: an apple, an hour, a unicorn, a UFO, an SUV, a T-shirt."""
    return ("an " if _starts_with_vowel(text) else "a ") + text


def plural_of(name: str) -> str:
    """The plural of an English name: buses, slices of pizza, people swimming, bows and arrows."""
    if rest := NOUN_AND_REST.fullmatch(name):
        noun, after = (str(part) for part in rest.groups() if part)
        return plural_of(noun) + after
    if " and " in name:
        return " and ".join(map(plural_of, name.split(" and ")))
    start = max(name.rfind(" "), name.rfind("-")) + 1
    return name[:start] + _plural_word(name[start:])


def _plural_word(word: str) -> str:
    if word in IRREGULAR:
        return IRREGULAR[word]
    for ending, plural in IRREGULAR_ENDINGS:
        if word.endswith(ending):
            return word.removesuffix(ending) + plural
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s")


def _starts_with_vowel(text: str) -> bool:
    if text[:1].isdigit():
        return bool(NUMERAL.match(text))
    if initials := INITIALS.match(text):  # spoken as the letter's name: an SUV, a UFO
        return initials.group()[0] in "AEFHILMNORSX"
    lower = text.lower()
    if SPELLED_LIKE_AN.match(lower):
        return True
    return lower[:1] in "aeiou" and not SPELLED_LIKE_A.match(lower)


def _known(thing: Thing, name: str) -> str:
    if name not in thing.en and name not in thing.zh:
        raise ValueError(f"{thing.key!r} has no name {name!r}: {', '.join(thing.en + thing.zh)}")
    return name


def _in_pairs(thing: Thing, name: str) -> bool:
    return thing.unit == "pair" and name.endswith("s")


def _coloured(text: str, colour: str | None) -> str:
    if colour is not None and colour not in COLOURS:
        raise ValueError(f"no colour {colour!r}: {', '.join(COLOURS)}")
    return f"{colour} {text}" if colour else text


def _coloured_zh(name: str, colour: str | None) -> str:
    _coloured(name, colour)
    return f"{COLOURS[colour]}的{name}" if colour else name


def _one_zh(thing: Thing, name: str, colour: str | None) -> str:
    measure = thing.measure_of(name)
    return (f"一{measure}" if measure else "") + _coloured_zh(name, colour)


# ---------------------------------------------------------------------------------------------- loading


def load_things(path: Path = THINGS) -> dict[str, Thing]:
    """All things by key, in the file's order; raises ThingsError for what is wrong in the file."""
    things = {key: _thing(key, entry) for key, entry in _read(path).items()}
    _check_names(things.values())
    _check_drawings(things.values())
    return things


def load_rare(path: Path = RARE, things: Mapping[str, Thing] | None = None) -> dict[str, Rare]:
    """The withheld emoji by key; none of them may show one of the things (default: those of things.yaml)."""
    everyday = (load_things() if things is None else things).values()
    taken = {code for thing in everyday for code in thing.emoji}
    names = {name.casefold() for thing in everyday for name in thing.en + thing.zh}
    found: dict[str, Rare] = {}
    for key, entry in _read(path).items():
        _require(
            set(entry) == {"en", "zh", "emoji"} and all(isinstance(value, str) for value in entry.values()),
            key,
            "needs en, zh and emoji, each one text",
        )
        rare = Rare(key, **entry)
        _require(bool(CODE_POINTS.fullmatch(rare.emoji)), key, f"{rare.emoji!r} is no code point")
        _require(rare.emoji not in taken, key, f"{rare.emoji} shows an everyday thing")
        _require(not {rare.en.casefold(), rare.zh} & names, key, "has the name of an everyday thing")
        taken.add(rare.emoji)
        found[key] = rare
    return found


def load_classes(path: Path = CLASSES) -> dict[str, dict[str, str | None]]:
    """For "coco" and "cifar100": class to the thing that shows it, None where no picture set draws it."""
    return _read(path)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a key that comes twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for place, key in enumerate(keys):
        if key in keys[:place]:
            line = node.value[place][0].start_mark.line + 1
            raise ThingsError(f"{key!r} comes twice, again in line {line}")
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        content = yaml.load(path.read_text("utf-8"), _Loader)
    except yaml.YAMLError as error:
        raise ThingsError(f"{path.name} is no YAML: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise ThingsError(f"{path.name} is no mapping of names to entries")
    return content


def _thing(key: str, entry: dict[str, Any]) -> Thing:
    known = {item.name for item in fields(Thing)} - {"key"}
    _require(set(entry) <= known, key, f"unknown fields: {', '.join(sorted(set(entry) - known))}")
    missing = {"en", "zh", "measure", "group"} - set(entry)
    _require(not missing, key, f"lacks {', '.join(sorted(missing))}")
    values = dict(entry)
    for name in ("en", "zh", "emoji"):
        values[name] = _texts(key, name, entry.get(name, []))
    mass = entry.get("mass", False)
    names = values["en"] if mass is True else () if mass is False else _texts(key, "mass", mass)
    values["mass"] = frozenset(names)
    values["measures"] = _mapping_of(key, "measures", entry)
    for name in ("icons", "not_in"):
        values[name] = {item: _texts(key, name, some) for item, some in _mapping_of(key, name, entry).items()}
    values["aspects"] = tuple(_words(key, aspect) for aspect in entry.get("aspects", []))
    thing = Thing(key, **values)
    _check_words(thing)
    _check_sets(thing)
    return thing


def _mapping_of(key: str, name: str, entry: dict[str, Any]) -> dict[str, Any]:
    value = entry.get(name, {})
    _require(isinstance(value, dict), key, f"{name} must be a mapping")
    return dict(value)


def _words(key: str, aspect: Any) -> Words:
    complete = isinstance(aspect, dict) and set(aspect) == {"en", "zh"}
    _require(complete, key, f"the aspect {aspect!r} needs en and zh")
    return Words(**aspect)


def _texts(key: str, name: str, value: Any) -> tuple[str, ...]:
    _require(isinstance(value, list), key, f"{name} must be a list")
    for item in value:
        _require(isinstance(item, str), key, f"{name}: put {item!r} into quotes")
    return tuple(value)


def _check_words(thing: Thing) -> None:
    def require(condition: bool, message: str) -> None:
        _require(condition, thing.key, message)

    require(bool(thing.en and thing.zh), "needs at least one English and one Chinese name")
    right = slug_of(thing.en[0])
    require(thing.key == right, f"the key must be {right!r}, after the first name")
    for name in thing.zh:
        require(bool(HAN.search(name)), f"{name!r} is no Chinese")
    for name in thing.en:
        require(not HAN.search(name) and name == name.strip(), f"{name!r} is no English")
    require(isinstance(thing.measure, str), "measure must be a text")
    require(thing.group in GROUPS, f"no group {thing.group!r}: {', '.join(GROUPS)}")
    strangers = thing.mass - set(thing.en)
    require(not strangers, f"mass: not among the names: {', '.join(strangers)}")
    require(set(thing.measures) <= set(thing.zh), "measures: a name is not among the Chinese ones")
    require(thing.unit in (None, "pair"), f"unit {thing.unit!r} must be 'pair' or left out")
    require(thing.article in (None, "the", "none"), f"article {thing.article!r} must be 'the' or 'none'")
    for switch in ("mirror", "recolour"):
        require(isinstance(getattr(thing, switch), bool), f"{switch} must be true or false")


def _check_sets(thing: Thing) -> None:
    def require(condition: bool, message: str) -> None:
        _require(condition, thing.key, message)

    for code in thing.emoji:
        require(bool(CODE_POINTS.fullmatch(code)), f"{code!r} is no code point as 1F697 or 1F43B-200D-2744")
        require("FE0F" not in code.split("-"), f"leave FE0F out of {code}")
    for icon_set in thing.icons:
        require(icon_set in EMOJI_SETS + ICON_SETS, f"no picture set {icon_set!r}")
    for code, sets in thing.not_in.items():
        require(code in thing.emoji, f"not_in: {code} is not among its emoji")
        require(set(sets) <= set(EMOJI_SETS), f"not_in: no emoji set among {', '.join(sets)}")
    icon_set, _, slug = thing.house.partition("/")
    require(icon_set in EMOJI_SETS or (icon_set in ICON_SETS and bool(slug)), f"no such house: {thing.house}")
    if not slug:
        require(bool(thing.emoji), f"needs an emoji, or a house like {ICON_SETS[-1]}/SLUG")
        elsewhere = thing.not_in.get(thing.emoji[0], ())
        require(icon_set not in elsewhere, f"{icon_set} does not show {thing.emoji[0]}: name another house")
    require(thing.paint in (None, *COLOURS), f"no colour {thing.paint!r} to paint with: {', '.join(COLOURS)}")


def _check_names(things: Iterable[Thing]) -> None:
    owners: dict[str, str] = {}
    for thing in things:
        for name in thing.en + thing.zh:
            owner = owners.setdefault(name.casefold(), thing.key)
            _require(owner == thing.key, thing.key, f"the name {name!r} belongs to {owner!r}")
        _require(len({*thing.en, *thing.zh}) == len(thing.en + thing.zh), thing.key, "a name comes twice")


def _check_drawings(things: Iterable[Thing]) -> None:
    owners: dict[str, str] = {}
    for thing in things:
        icons = [f"{icon_set}/{slug}" for icon_set, slugs in thing.icons.items() for slug in slugs]
        house = [thing.house] if "/" in thing.house else []
        for drawing in (*thing.emoji, *icons, *house):
            owner = owners.get(drawing)
            _require(owner is None, thing.key, f"{drawing} is also a drawing of {owner!r}")
            owners[drawing] = thing.key


def _require(condition: bool, key: str, message: str) -> None:
    if not condition:
        raise ThingsError(f"{key}: {message}")
