"""Emoji in ten drawing styles, named in English and Chinese by Unicode's CLDR.

Sets name their pictures in different ways (code points, CLDR labels, Unicode names, short codes); all are
brought to the code point, with the invisible variation selector left out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from sources.drawing import (
    Canvas,
    Drawing,
    Words,
    fraction,
    iconify_svg,
    load_json,
    on_white,
    render_svg,
    slug,
)
from sources.wording import emoji_wordings

TONES = {
    "1F3FB": Words("light skin tone", "较浅肤色"),
    "1F3FC": Words("medium-light skin tone", "中等偏浅肤色"),
    "1F3FD": Words("medium skin tone", "中等肤色"),
    "1F3FE": Words("medium-dark skin tone", "中等偏深肤色"),
    "1F3FF": Words("dark skin tone", "较深肤色"),
}
SAME_SHAPES = {"fluent-3d": "fluent-emoji"}  # near-duplicate drawings are held out together
UNCOLOURED = frozenset(("fluent-emoji-high-contrast",))
NAMING_SETS = ("fluent-emoji-flat", "noto", "twemoji", "fluent-emoji-high-contrast")


@dataclass(frozen=True)
class Style:
    """A drawing style: its words and its licence."""

    words: Words
    licence: str


STYLES = {
    "noto": Style(Words("Noto cartoon", "谷歌卡通"), "Apache-2.0"),
    "noto-v1": Style(Words("blob", "小团子"), "Apache-2.0"),
    "twemoji": Style(Words("Twitter flat", "推特扁平"), "CC-BY-4.0"),
    "fluent-emoji": Style(Words("glossy gradient", "渐变光泽"), "MIT"),
    "fluent-emoji-flat": Style(Words("flat", "扁平"), "MIT"),
    "fluent-emoji-high-contrast": Style(Words("black and white", "黑白"), "MIT"),
    "fluent-3d": Style(Words("3D", "三维立体"), "MIT"),
    "emojione": Style(Words("EmojiOne", "圆润卡通"), "CC-BY-4.0"),
    "fxemoji": Style(Words("Firefox", "火狐"), "Apache-2.0"),
    "streamline-emojis": Style(Words("outlined", "描边"), "CC-BY-4.0"),
}


@dataclass(frozen=True)
class Emoji:
    """One emoji: its names, keywords and what it is a variant of (``concept``, without skin tones)."""

    name: Words
    keywords: dict[str, list[str]]
    concept: str
    meta: dict[str, Any] = field(default_factory=dict)


def normal(code_points: str) -> str:
    """Code points as "1F468-200D-1F692": upper case, without variation selectors."""
    return "-".join(part for part in code_points.upper().replace("_", "-").split("-") if part != "FE0F")


def split_of(concept: str, style: str, code_points: str, count: int) -> str:
    """test_concept: in no style's training part; test_comp: concept and style seen, not together."""
    if fraction("concept", concept) < 0.02:
        return "test_concept"
    if fraction("cs", concept, SAME_SHAPES.get(style, style)) < 0.06:
        return "test_comp"
    return "val" if fraction("rnd", code_points, style, count) < 0.01 else "train"


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
        if (
            len(tones) > 1 or parent.get("group") is None
        ):  # two-person mixes are badly named; single flag letters
            return
        concept = "-".join(part for part in code_points.split("-") if part not in TONES)
        origin = normal(parent["hexcode"]) if tones else code_points
        en, zh = (self._name(locale, code_points, origin, concept) for locale in ("en", "zh"))
        if not en or not zh:
            return
        name = _tidy(Words(en, zh))
        meta = {
            "group": self._groups.get(parent["group"]),
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
        for icon_set in NAMING_SETS:
            for code_points, name in load_json(self.packages / icon_set / "chars.json").items():
                self._by_name.setdefault(name, normal(code_points))
            aliases = load_json(self.packages / icon_set / "icons.json").get("aliases", {})
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


def emoji_drawings(packages: Path) -> Iterator[Drawing]:
    """Every emoji in every style it is drawn in."""
    names = EmojiNames(packages)
    for style in STYLES:
        drawings = _three_d(names) if style == "fluent-3d" else _icon_set(names, style)
        yield from drawings


def _three_d(names: EmojiNames) -> Iterator[Drawing]:
    paths: dict[str, Path] = {}  # a few come twice, with and without a variation selector
    for path in sorted((names.packages / "fluent-3d" / "assets").glob("*.webp")):
        paths.setdefault(normal(path.stem), path)
    for code_points, path in paths.items():
        if code_points in names.known:
            yield _drawing(names, "fluent-3d", code_points, partial(_open_scaled, path))


def _open_scaled(path: Path) -> Image.Image:
    return on_white(Image.open(path)).resize((Canvas.side, Canvas.side), Image.Resampling.LANCZOS)


def _icon_set(names: EmojiNames, style: str) -> Iterator[Drawing]:
    icons = load_json(names.packages / style / "icons.json")
    mirrored = [
        (name, alias["parent"], True)
        for name, alias in icons.get("aliases", {}).items()
        if alias.get("hFlip")
    ]
    counts: dict[str, int] = {}
    for name, parent, flip in [(name, name, False) for name in icons["icons"]] + mirrored:
        if parent not in icons["icons"] or icons["icons"][parent].get("hidden"):
            continue
        code_points = names.find(style, name)
        if code_points:
            counts[code_points] = counts.get(code_points, 0) + 1
            draw = partial(_draw_icon, icons, parent, flip)
            yield _drawing(names, style, code_points, draw, counts[code_points])


def _draw_icon(icons: dict[str, Any], name: str, flip: bool) -> Image.Image:
    return render_svg(iconify_svg(icons, name, flip=flip))


def _drawing(names: EmojiNames, style: str, code_points: str, draw: Any, count: int = 1) -> Drawing:
    emoji = names.known[code_points]
    key = f"emoji/{style}/{code_points}" + (f"~{count}" if count > 1 else "")
    return Drawing(
        key=key,
        source="tone" if "skin" in emoji.meta else "mono" if style in UNCOLOURED else "emoji",
        style=style,
        style_words=STYLES[style].words,
        concept=emoji.concept,
        caption=emoji.name,
        licence=STYLES[style].licence,
        split=split_of(emoji.concept, style, code_points, count),
        draw=draw,
        en_keywords=emoji.keywords["en"],
        zh_keywords=emoji.keywords["zh"],
        wordings=emoji_wordings(key, emoji.name, emoji.meta["group"], emoji.meta["sub"]),
        meta=emoji.meta,
    )
