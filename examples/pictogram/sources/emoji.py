"""Emoji in ten drawing styles, named in English and Chinese by Unicode's CLDR.

Sets name their pictures in different ways (code points, CLDR labels, Unicode names, short codes); all are
brought to the code point, with the invisible variation selector left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from sources.drawing import Name, Words, load_json, slug
from sources.sprites import File, Icon, Picture, Sprite, icon_set
from sources.thing_index import ThingIndex, normal

TONES = {
    "1F3FB": Words("light skin tone", "较浅肤色"),
    "1F3FC": Words("medium-light skin tone", "中等偏浅肤色"),
    "1F3FD": Words("medium skin tone", "中等肤色"),
    "1F3FE": Words("medium-dark skin tone", "中等偏深肤色"),
    "1F3FF": Words("dark skin tone", "较深肤色"),
}
UNCOLOURED = frozenset(("fluent-emoji-high-contrast",))
SETS = (
    "noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fluent-emoji-high-contrast",
    "fluent-3d", "emojione", "fxemoji", "streamline-emojis",
)  # fmt: skip
MIRRORED = frozenset(("animals-nature", "food-drink", "travel-places", "objects", "activities"))
RECOLOURED = frozenset(("food-drink", "travel-places", "objects", "activities", "animals-nature"))
LETTERED = frozenset(("money", "mail", "computer", "office", "book-paper", "time", "transport-sign", "game"))
COUNTED = frozenset(("animals-nature", "food-drink", "travel-places", "objects", "activities", "people-body"))
MEASURES = {
    "animal-mammal": "只", "animal-bird": "只", "animal-amphibian": "只", "animal-reptile": "只",
    "animal-marine": "条", "animal-bug": "只", "plant-flower": "朵", "plant-other": "棵",
    "transport-ground": "辆", "transport-water": "艘", "transport-air": "架", "clothing": "件",
}  # fmt: skip
FACING = re.compile(r"\b(left|right|o'clock|thirty|oclock|clock|ABC|calendar|book|keyboard)\b")
NAMING_SETS = ("fluent-emoji-flat", "noto", "twemoji", "fluent-emoji-high-contrast")


@dataclass(frozen=True)
class Emoji:
    """One emoji: its names, keywords and what it is a variant of (``concept``, without skin tones)."""

    name: Words
    keywords: dict[str, list[str]]
    concept: str
    meta: dict[str, Any] = field(default_factory=dict)


@cache
def emoji_names(packages: Path) -> EmojiNames:
    """The emoji's names in some unpacked packages."""
    return EmojiNames(packages)


class EmojiNames:
    """All emoji with their names (``known``), and the code points of every name a set may use."""

    def __init__(self, packages: Path) -> None:
        self.packages = packages
        self.known: dict[str, Emoji] = {}
        self._by_name: dict[str, str] = {}
        self._annotations = {locale: self._read_annotations(locale) for locale in ("en", "zh")}
        self._base = {locale: self._read_base(locale) for locale in ("en", "zh")}
        messages = load_json(packages / "emojibase" / "en" / "messages.json")
        self._groups = {group["order"]: group["key"] for group in messages["groups"]}
        self._subgroups = {group["order"]: group["key"] for group in messages["subgroups"]}
        for code_points in self._base["en"]:
            self._add(code_points)
        self._learn_set_names()
        self._learn_short_names()
        for name, code_points in list(self._by_name.items()):
            self._by_name.setdefault(name.replace("-", ""), code_points)

    def find(self, style: str, name: str) -> str | None:
        """The code points a set means by a name, None if it is no emoji known here."""
        candidates = (
            name,
            re.sub(r"^flag-for-(flag-)?", "flag-", name),
            re.sub(r"-\d+$", "", name) if style == "streamline-emojis" else name,
            name + "-face",
            re.sub(r"-face$", "", name),
        )
        found = (self._by_name.get(candidate) for candidate in candidates)
        return next((code_points for code_points in found if code_points in self.known), None)

    def titles(self) -> dict[str, str]:
        """English name, lower case, to Chinese name, skin tones left out."""
        plain = (emoji for emoji in self.known.values() if "skin" not in emoji.meta)
        return {emoji.name.en.lower(): emoji.name.zh for emoji in plain}

    def _read_annotations(self, locale: str) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        for package, kind in (("cldr-derived", "annotationsDerived"), ("cldr-annotations", "annotations")):
            data = load_json(self.packages / package / kind / locale / "annotations.json")
            for text, value in data[kind]["annotations"].items():
                found[normal("-".join(f"{ord(character):X}" for character in text))] = value
        return found

    def _read_base(self, locale: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
        """Code points to (the emoji's entry, the entry it is a skin tone of)."""
        entries = load_json(self.packages / "emojibase" / locale / "data.json")
        return {
            normal(entry["hexcode"]): (entry, parent)
            for parent in entries
            for entry in [parent, *parent.get("skins", [])]
        }

    def _add(self, code_points: str) -> None:
        entry, parent = self._base["en"][code_points]
        tones = [part for part in code_points.split("-") if part in TONES]
        if len(tones) > 1:  # two-person mixes are badly named
            return
        if self._groups.get(parent.get("group"), "component") == "component":  # single flag letters, tones
            return
        concept = "-".join(part for part in code_points.split("-") if part not in TONES)
        origin = normal(parent["hexcode"]) if tones else code_points
        en, zh = (self._name(locale, code_points, origin, concept) for locale in ("en", "zh"))
        if not en or not zh:
            return
        name = _tidy(Words(en, zh))
        meta = {
            "group": self._groups[parent["group"]],
            "sub": self._subgroups.get(parent.get("subgroup")),
        }
        if tones:
            tone = TONES[tones[0]]
            name = Words(f"{name.en}, {tone.en}", f"{name.zh}，{tone.zh}")
            meta["skin"] = tones[0]
        keywords = {locale: self._keywords(locale, origin, concept) for locale in ("en", "zh")}
        self.known[code_points] = Emoji(name, keywords, concept, meta)
        self._by_name.setdefault(slug(entry["label"]), code_points)

    def _annotation(self, locale: str, origin: str, concept: str) -> dict[str, list[str]]:
        annotations = self._annotations[locale]
        return annotations.get(origin) or annotations.get(concept) or {}

    def _name(self, locale: str, code_points: str, origin: str, concept: str) -> str | None:
        spoken = self._annotation(locale, origin, concept).get("tts", [""])[0]
        base = self._base[locale]
        entry = base.get(origin) or base.get(code_points)
        return spoken or (entry[0].get("label") if entry else None)

    def _keywords(self, locale: str, origin: str, concept: str) -> list[str]:
        words = self._annotation(locale, origin, concept).get("default", [])
        return [word for word in words if "skin tone" not in word and "肤色" not in word]

    def _learn_set_names(self) -> None:
        for name_set in NAMING_SETS:
            for code_points, name in load_json(self.packages / name_set / "chars.json").items():
                self._by_name.setdefault(name, normal(code_points))
            aliases = load_json(self.packages / name_set / "icons.json").get("aliases", {})
            for name, alias in aliases.items():
                if not alias.get("hFlip") and alias["parent"] in self._by_name:
                    self._by_name.setdefault(name, self._by_name[alias["parent"]])

    def _learn_short_names(self) -> None:
        """Unicode's own names, then the short codes of two conventions."""
        folder = self.packages / "emojibase" / "en" / "shortcodes"
        codes = [load_json(folder / name) for name in ("iamcal.json", "emojibase.json")]
        for code_points in self.known:
            names = [unicodedata.name(chr(int(code_points, 16)), "")] if "-" not in code_points else []
            for table in codes:
                for key in (code_points, code_points + "-FE0F"):
                    value = table.get(key) or []
                    names += [value] if isinstance(value, str) else value
            for name in filter(None, map(slug, names)):
                self._by_name.setdefault(name, code_points)


def _tidy(name: Words) -> Words:
    """Sentences instead of CLDR's "flag: X" and "X: Y"."""
    en, zh = name.en, name.zh
    if en.startswith("flag: "):
        en, zh = "flag of " + en[6:], re.sub(r"^旗[帜]?[:：]\s*", "", zh) + "的旗帜"
    elif en.startswith("keycap: "):
        en, zh = "keycap " + en[8:], re.sub(r"^(键帽|按键)[:：]\s*", "按键", zh)
    return Words(en.replace(": ", ", "), re.sub(r"[:：]\s*", "，", zh))


def emoji_sprites(packages: Path, things: ThingIndex) -> Iterator[Sprite]:
    """Every emoji in every style it is drawn in."""
    names = emoji_names(packages)
    for style in SETS:
        entries = _three_d(names) if style == "fluent-3d" else _icons(names, style)
        for name, code_points, picture in entries:
            yield _sprite(names, things, style, name, code_points, picture)


def _three_d(names: EmojiNames) -> Iterator[tuple[str, str, Picture]]:
    paths: dict[str, Path] = {}  # a few come twice, with and without a variation selector
    for path in sorted((names.packages / "fluent-3d" / "assets").glob("*.webp")):
        paths.setdefault(normal(path.stem), path)
    for code_points, path in paths.items():
        if code_points in names.known:
            yield code_points.lower(), code_points, File(path)


def _icons(names: EmojiNames, style: str) -> Iterator[tuple[str, str, Picture]]:
    folder = names.packages / style
    icons = icon_set(folder)
    mirrored = [
        (name, alias["parent"], True)
        for name, alias in icons.get("aliases", {}).items()
        if alias.get("hFlip")
    ]
    for name, parent, flip in [(name, name, False) for name in icons["icons"]] + mirrored:
        if parent not in icons["icons"] or icons["icons"][parent].get("hidden"):
            continue
        code_points = names.find(style, name)
        if code_points:
            yield name, code_points, Icon(folder, parent, flip)


def _sprite(
    names: EmojiNames, things: ThingIndex, style: str, name: str, code_points: str, picture: Picture
) -> Sprite:
    emoji = names.known[code_points]
    toned = "skin" in emoji.meta
    thing = None if toned else things.of_emoji(style, code_points) or things.of_icon(style, name)
    return things.sprite(
        f"{style}/{name}",
        thing,
        source="tone" if toned else "mono" if style in UNCOLOURED else "emoji",
        style=style,
        concept=emoji.concept,
        names=names_of(emoji),
        picture=picture,
        mirror=_may_mirror(emoji),
        recolour=emoji.meta["group"] in RECOLOURED,
        meta={**emoji.meta, "code": code_points},
    )


def names_of(emoji: Emoji) -> tuple[Name, ...]:
    """An emoji's names; only things and people are counted, and what is no plural."""
    noun = emoji.name.en.split(" with ")[0].split(" of ")[0]
    plural = re.search(r"([^s]s|\b(wo)?men|people|hands|feet|teeth)\b", noun)
    counted = emoji.meta["group"] in COUNTED and not plural
    article, measure = ("a", MEASURES.get(emoji.meta["sub"] or "", "个")) if counted else ("", "")
    return tuple(Name(name.en, name.zh, article, measure) for name in (emoji.name, *other_names(emoji)))


def _may_mirror(emoji: Emoji) -> bool:
    meta = emoji.meta
    return meta["group"] in MIRRORED and meta["sub"] not in LETTERED and not FACING.search(emoji.name.en)


def other_names(emoji: Emoji) -> Iterator[Words]:
    """What else an emoji may be called: "cat" for "cat face", "owl with dark skin" for "owl, dark skin"."""
    name = emoji.name
    if "skin" in emoji.meta:
        tone = TONES[emoji.meta["skin"]]
        en, zh = name.en.removesuffix(f", {tone.en}"), name.zh.removesuffix(f"，{tone.zh}")
        yield Words(f"{en} with {tone.en}", f"{tone.zh}的{zh}")
    elif re.search(r"\w face$", name.en) and name.zh.endswith("脸"):
        yield Words(name.en.removesuffix(" face"), name.zh[:-1] or name.zh)
