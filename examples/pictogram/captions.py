"""Captions of drawings in both languages: every pair says the same, and nothing that is not so.

A bare name ("cat", "a cat", 一只猫) means the house style, large, in its own colours, on white. What differs
from that is always said: another style, a colour given, a background, a place at the edge. Dense captions say
the colours measured from the pixels besides.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sources.drawing import COLOURS, Name, Words, with_article
from sources.sprites import Sprite
from sources.styles import HOUSE
from variants import Variant

from cogview.data.samples import Caption, CaptionKind

FRAMES = (
    Words("a picture of {en}", "{zh}的图片"),
    Words("a picture of {en}", "图片：{zh}"),
    Words("an image of {en}", "{zh}的图像"),
    Words("a drawing of {en}", "{zh}的画"),
    Words("a drawing of {en}", "一幅画：{zh}"),
    Words("draw {en}", "画{zh}"),
    Words("please draw {en}", "请画{zh}"),
    Words("draw me {en}", "给我画{zh}"),
    Words("show me {en}", "给我看{zh}"),
    Words("I want {en}", "我想要{zh}"),
    Words("an illustration of {en}", "{zh}的插图"),
    Words("an illustration of {en}", "插图：{zh}"),
)
STYLED = (
    Words("{en}, {style_en} style", "{zh}，{style_zh}风格"),
    Words("{en}, {style_en} style", "{zh}，{style_zh}风格"),
    Words("{en} in {style_en} style", "{style_zh}风格，{zh}"),
    Words("{en} in the {style_en} style", "{style_zh}风格的画：{zh}"),
    Words("{style_en} style, {en}", "{style_zh}风格：{zh}"),
    Words("{a_style_en} style picture of {en}", "一张{style_zh}风格的图片：{zh}"),
)
PLACES = {
    "top left": Words("in the top left corner", "在左上角"),
    "top": Words("at the top", "在上方"),
    "top right": Words("in the top right corner", "在右上角"),
    "left": Words("on the left side", "在左侧"),
    "right": Words("on the right side", "在右侧"),
    "bottom left": Words("in the bottom left corner", "在左下角"),
    "bottom": Words("at the bottom", "在下方"),
    "bottom right": Words("in the bottom right corner", "在右下角"),
}
WHITE = (
    Words("on a white background", "白色背景"),
    Words("white background", "背景是白色的"),
)
SMALL = Words("small", "小小的")
COLOUR_WORD = re.compile(rf"\b({'|'.join(COLOURS)}|grey|gold|golden)\b", re.IGNORECASE)
COLOUR_CHARACTER = re.compile("[红橙黄绿青蓝紫粉棕黑白灰金]")
UNSAID = frozenset(("people-body", "flags", "smileys-emotion"))  # whose colours go without saying
NAMES = 4  # of a drawing that one row says, at most


@dataclass(frozen=True)
class Shown:
    """What one row shows, as far as captions go: the drawing, its variant, and its measured colours."""

    sprite: Sprite
    variant: Variant
    colours: tuple[str, ...]


def captions(key: str, shown: Shown) -> tuple[Caption, ...]:
    """The captions of a row, the same for the same key; as many in each language."""
    chance = random.Random(f"captions:{key}")
    if shown.sprite.source == "dice":
        pairs = _avatar(shown.sprite)
    elif shown.sprite.house or _is_own(shown.sprite):
        pairs = _house(chance, shown)
    else:
        pairs = _other(chance, shown)
    unique = dict.fromkeys((kind, Words(tidy(words.en), tidy(words.zh))) for kind, words in pairs)
    return tuple(
        Caption(text, language, kind)
        for kind, words in unique
        for language, text in (("en", words.en), ("zh", words.zh))
    )


def _is_own(sprite: Sprite) -> bool:
    """Whether a drawing may go by its bare name, which is no everyday thing's: it is in the house style."""
    return sprite.style == HOUSE


Said = Iterator[tuple[CaptionKind, Words]]


def _house(chance: random.Random, shown: Shown) -> Said:
    names = _some_names(chance, shown)
    for place, name in enumerate(names):
        yield "plain", _subject(chance, shown, name, article=place % 2 == 1)
    yield "plain", _subject(chance, shown, names[0], article=True)
    for _ in range(3):
        words = _subject(chance, shown, chance.choice(names), article=True)
        frame = chance.choice([one for one in FRAMES if "，" not in words.zh or not one.zh.startswith("{")])
        yield "reworded", Words(frame.en.format(en=words.en), frame.zh.format(zh=words.zh))
    for _ in range(2):
        yield "reworded", _dense(chance, shown, chance.choice(names))
    words = _subject(chance, shown, chance.choice(names), article=chance.random() < 0.5)
    yield "styled", _in_style(STYLED[0], words, shown.sprite)


def _other(chance: random.Random, shown: Shown) -> Said:
    names = _some_names(chance, shown)
    for place, name in enumerate(names):
        words = _subject(chance, shown, name, article=place % 2 == 1)
        yield "styled", _in_style(STYLED[0], words, shown.sprite)
    for form in STYLED[2:]:
        words = _subject(chance, shown, chance.choice(names), article=True)
        yield "reworded", _in_style(form, words, shown.sprite)
    for form in chance.sample(STYLED, 2):
        yield "reworded", _in_style(form, _dense(chance, shown, chance.choice(names)), shown.sprite)


def _avatar(sprite: Sprite) -> Said:
    """An avatar's sentence, then the same or less in other words."""
    first, *others = sprite.names
    yield "plain", first
    for words in others:
        yield "reworded", words


def _in_style(form: Words, words: Words, sprite: Sprite) -> Words:
    style = sprite.style_words
    en = form.en.format(en=words.en, style_en=style.en, a_style_en=with_article(style.en))
    return Words(en, form.zh.format(zh=words.zh, style_zh=style.zh))


def _some_names(chance: random.Random, shown: Shown) -> list[Name]:
    """The first name and some others, none that says a colour where another was given."""
    first, *others = shown.sprite.names
    if shown.variant.colour:
        others = [name for name in others if not says_colour(name)]
    return [first, *chance.sample(others, min(len(others), NAMES - 1))]


def _subject(chance: random.Random, shown: Shown, name: Name, article: bool) -> Words:
    """The name with all that must be said: colour given, place, background."""
    return _with_parts(chance, _noun(chance, name, _qualities(shown), article), _must_be_said(chance, shown))


def _qualities(shown: Shown, *more: Words) -> list[Words]:
    """What is said before a name: small, the colour given, and more."""
    colour = [_colour(shown.variant.colour)] if shown.variant.colour else []
    return [*([SMALL] if shown.variant.place else []), *colour, *more]


def _noun(chance: random.Random, name: Name, qualities: Sequence[Words], article: bool) -> Words:
    """A noun phrase: "a small red car", 一辆小小的红色汽车."""
    en = " ".join(quality.en for quality in qualities)
    zh = "".join(quality.zh + ("的" if chance.random() < 0.6 else "") for quality in qualities)
    return name.one(Words(en, zh)) if article else Words(f"{en} {name.en}".strip(), zh + name.zh)


def _colour(name: str) -> Words:
    return Words(name, COLOURS[name])


def _must_be_said(chance: random.Random, shown: Shown) -> list[Words]:
    parts = [PLACES[shown.variant.place]] if shown.variant.place else []
    phrases = shown.variant.background.phrases
    return [*parts, chance.choice(phrases)] if phrases else parts


def _with_parts(chance: random.Random, noun: Words, parts: Sequence[Words]) -> Words:
    en, zh = noun.en, noun.zh
    for part in parts:
        loose = part.en.startswith(("on ", "in ", "at ", "with ", "against ", "under ", "among "))
        en += (" " if loose and "," not in en and chance.random() < 0.7 else ", ") + part.en
        zh += ("" if part.zh.startswith("在") and chance.random() < 0.4 else "，") + part.zh
    return Words(en, zh)


def _dense(chance: random.Random, shown: Shown, name: Name) -> Words:
    """The subject with what can be seen: aspects or measured colours, background and, where small, place."""
    natural, colours, listed = shown.sprite.aspects, _sayable(shown), list[Words]()
    more: list[Words] = []
    if natural and not shown.variant.colour and chance.random() < 0.6:
        aspect = chance.choice(natural)
        if aspect.en in COLOURS:
            more = [aspect]
        else:
            listed = [Words(f"with {aspect.en}", f"有{aspect.zh}")]
    elif len(colours) == 1:
        more = [_colour(colours[0])]
    elif colours:
        listed = [_colour_list(chance, colours)]
    if more and (says_colour(name)):
        more = []
    noun = _noun(chance, name, _qualities(shown, *more), article=True)
    behind = [chance.choice(WHITE)] if shown.variant.background.kind == "white" else []
    return _with_parts(chance, noun, [*listed, *_must_be_said(chance, shown), *behind])


def _sayable(shown: Shown) -> tuple[str, ...]:
    unsaid = shown.variant.colour or shown.sprite.meta.get("group") in UNSAID
    return () if unsaid else shown.colours


def says_colour(name: Words) -> bool:
    """Whether a name says a colour by itself: "red apple", 红灯笼."""
    return bool(COLOUR_WORD.search(name.en) or COLOUR_CHARACTER.search(name.zh))


def _colour_list(chance: random.Random, colours: Sequence[str]) -> Words:
    """Measured colours, the largest first, as a phrase."""
    first, *rest = colours
    zh_rest = "和".join(COLOURS[name] for name in rest)
    both = [*colours[:-1]]
    listed = Words(
        f"{', '.join(both)} and {colours[-1]}",
        "、".join(COLOURS[name] for name in both) + f"和{COLOURS[colours[-1]]}",
    )
    forms = (
        listed,
        Words(f"mostly {first} with some {' and '.join(rest)}", f"主要是{COLOURS[first]}，还有{zh_rest}"),
        Words(f"in {listed.en}", f"颜色是{listed.zh}"),
    )
    return chance.choice(forms)


def tidy(text: str) -> str:
    """Without doubled words and stray spaces."""
    return re.sub(r"\s+", " ", text.replace("的的", "的")).strip()
