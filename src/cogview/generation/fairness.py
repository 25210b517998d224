"""Word replacing (CogView, appendix D): a prompt about people that names neither gender nor origin gets such
words, drawn by given proportions, before the word for a person.

The paper trains a network to find words about people; here they are a list in the table, matched as whole
words in English and as they stand in Chinese. Words are drawn by (seed, index), so picture *i* of a seed gets
the same ones alone and in any batch. It is off unless asked for, and what was drawn is recorded with the
picture.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cogview.config import Config

Language = Literal["en", "zh"]
Words = Annotated[tuple[str, ...], Field(min_length=1)]


class Choice(Config):
    """One value of a quality: its word by language, its share, and words that already say it.

    ``words`` go before the person's word; ``named``: words whose presence means the prompt has decided.
    """

    share: float = Field(gt=0)
    words: dict[Language, str]
    named: dict[Language, tuple[str, ...]] = Field(default_factory=dict)


class FairnessTable(Config):
    """Words for people by language, words that rule the whole prompt out, and the qualities to draw.

    people: what is looked for, the first in the text is used. excluded: words that hold one of those and mean
    something else (a snowman). qualities: name to {value: choice}; the words
    drawn stand in this order. Shares need not sum to 1.
    """

    people: dict[Language, Words]
    excluded: dict[Language, tuple[str, ...]] = Field(default_factory=dict)
    qualities: dict[str, dict[str, Choice]]

    @model_validator(mode="after")
    def _something_to_draw(self) -> Self:
        for name, choices in self.qualities.items():
            if not choices:
                raise ValueError(f"qualities.{name} has no values")
            for value, choice in choices.items():
                lacking = set(self.people) - set(choice.words)
                if lacking:
                    raise ValueError(f"qualities.{name}.{value} has no word in {sorted(lacking)[0]!r}")
        return self


class Replacement(Config):
    """What was made of a prompt: the text that is drawn, and the value drawn of each quality ({} if none)."""

    text: str
    drawn: dict[str, str] = Field(default_factory=dict)


def _choice(share: float, en: str, zh: str, *named: str) -> Choice:
    latin = (en, *(word for word in named if word.isascii()))
    han = (zh, *(word for word in named if not word.isascii()))
    return Choice(share=share, words={"en": en, "zh": zh}, named={"en": latin, "zh": han})


PEOPLE_EN = (
    *("person", "people", "human", "face", "portrait", "doctor", "nurse", "teacher", "student"),
    *("scientist", "engineer", "worker", "farmer", "artist", "singer", "athlete", "child", "adult"),
)
PEOPLE_ZH = (
    *("人脸", "人像", "肖像", "医生", "护士", "老师", "学生", "科学家", "工程师", "工人", "农民"),
    *("艺术家", "歌手", "运动员", "孩子", "成年人", "人物", "人"),
)
WORLD = FairnessTable(
    people={"en": PEOPLE_EN, "zh": PEOPLE_ZH},
    excluded={"zh": ("机器人", "雪人", "稻草人", "人工", "人参", "人民币", "人行道")},
    qualities={
        "origin": {
            "Asian": _choice(0.60, "Asian", "亚洲", "Chinese", "Japanese", "Indian", "中国", "日本", "印度"),
            "Black": _choice(0.18, "Black", "黑人", "African", "非洲"),
            "white": _choice(0.14, "white", "白人", "European", "Caucasian", "欧洲"),
            "Latino": _choice(0.08, "Latino", "拉丁裔", "Hispanic", "Latina", "拉美"),
        },
        "gender": {
            "female": _choice(
                0.5, "female", "女", "woman", "women", "girl", "girls", "lady", "she", "mother"
            ),
            "male": _choice(0.5, "male", "男", "man", "men", "boy", "boys", "gentleman", "he", "father"),
        },
    },
)
"""Rounded shares of the world's people; a table of one's own is a YAML file of the same form."""


def replace_words(prompt: str, table: FairnessTable, seed: int, index: int) -> Replacement:
    """The prompt with the missing qualities before its first word for a person.

    A quality that any of its values' words names is left alone; a prompt without people is returned as it is.
    """
    place = _first_person(prompt, table)
    if place is None:
        return Replacement(text=prompt)
    start, language = place
    drawn = {
        name: _draw(name, choices, seed, index)
        for name, choices in table.qualities.items()
        if not _named(prompt, choices)
    }
    words = [table.qualities[name][value].words[language] for name, value in drawn.items()]
    if language == "zh":
        return Replacement(text=prompt[:start] + "".join(words) + prompt[start:], drawn=drawn)
    text = prompt[:start] + "".join(f"{word} " for word in words) + prompt[start:]
    return Replacement(text=_article(text, start), drawn=drawn)


def _first_person(prompt: str, table: FairnessTable) -> tuple[int, Language] | None:
    """Where the first word for a person starts, and its language; the longest where several start there."""
    taken = [m.span() for words in table.excluded.values() for word in words for m in _matches(word, prompt)]
    found: list[tuple[int, int, Language]] = []
    for language, words in table.people.items():
        free = (
            (m.start(), -len(word), language)
            for word in words
            for m in _matches(word, prompt)
            if not any(first <= m.start() < last for first, last in taken)
        )
        found += free
    start = min(found, default=None)
    return None if start is None else (start[0], start[2])


def _matches(word: str, text: str) -> list[re.Match[str]]:
    """Occurrences: whole words of Latin letters (a plural "s" allowed), anything else as it stands."""
    pattern = rf"\b{re.escape(word)}s?\b" if word.isascii() else re.escape(word)
    return list(re.finditer(pattern, text, re.IGNORECASE))


def _named(prompt: str, choices: Mapping[str, Choice]) -> bool:
    words = (word for choice in choices.values() for named in choice.named.values() for word in named)
    return any(_matches(word, prompt) for word in words)


def _draw(quality: str, choices: Mapping[str, Choice], seed: int, index: int) -> str:
    """A value by its share, from a number in [0, 1) that quality, seed and index decide."""
    digest = hashlib.sha256(f"{quality}\0{seed}\0{index}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(choice.share for choice in choices.values())
    for value, choice in choices.items():
        place -= choice.share
        if place < 0:
            return value
    return value


def _article(text: str, start: int) -> str:
    """ "a" or "an" as what now follows it asks."""
    before, after = text[:start], text[start:]
    match = re.search(r"\b(a|an)(\s+)$", before, re.IGNORECASE)
    if match is None or not after:
        return text
    article = "an" if after[0].lower() in "aeiou" else "a"
    if match[1][0].isupper():
        article = article.capitalize()
    return before[: match.start()] + article + match[2] + after
