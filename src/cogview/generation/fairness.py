"""Word replacing (CogView, appendix D): a prompt about people that names neither gender nor origin gets such
words, drawn by given proportions, beside the word for a person.

The paper trains a network to find words about people; here they are lists in a table, matched as whole words
in English and as they stand in Chinese, with rules for words of two meanings (a white coat names no origin).
Words are drawn by (seed, index), so image *i* of a seed gets the same ones alone and in any batch. It is
off unless asked for, and what was drawn is recorded with the image.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cogview.config import Config, parse_yaml, read_yaml, validate
from cogview.errors import CogViewError
from cogview.vocabulary import HAN

Language = Literal["en", "zh"]
Words = Annotated[tuple[str, ...], Field(min_length=1)]
LANGUAGES: tuple[Language, ...] = ("en", "zh")
Spans = Sequence[tuple[int, int]]
BETWEEN = 2  # words that may stand between a word of two meanings and the person it describes
LETTER = rf"[^\W{HAN}]"
WORLD = "world"


class Choice(Config):
    """One value of a quality: its share, its words by language, and words that already say it.

    words: what is put in. place: ``before`` the person's word, or ``after`` it ("with brown hair"; Chinese
    brings its own comma). named: words whose presence means that the prompt has decided (default: the
    words themselves). beside: words that
    say so only where a person follows, as in "white" of "a white man" but not of "a white coat".
    """

    share: float = Field(gt=0, allow_inf_nan=False)
    words: dict[Language, str]
    place: Literal["before", "after"] = "before"
    named: dict[Language, tuple[str, ...]] = Field(default_factory=dict)
    beside: dict[Language, tuple[str, ...]] = Field(default_factory=dict)

    def naming(self, language: Language) -> tuple[str, ...]:
        """``named``; where neither it nor ``beside`` has words of the language, the choice's own."""
        own = () if language in self.beside else (self.words[language],) if language in self.words else ()
        return self.named.get(language, own)


class FairnessTable(Config):
    """Words for people by language, words that only look like one, and the qualities to draw.

    people: what is looked for, the first in the text is used, the longest where several start there.
    excluded: words that hold one of those and mean something else (a snowman). qualities: name to
    {value: choice}; the words drawn stand in this order. Shares need not sum to 1.
    """

    people: dict[Language, Words]
    excluded: dict[Language, tuple[str, ...]] = Field(default_factory=dict)
    qualities: dict[str, dict[str, Choice]] = Field(min_length=1)

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

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over everything in the table."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def shares(self, quality: str) -> dict[str, float]:
        """The shares of a quality's values, summing to 1."""
        total = sum(choice.share for choice in self.qualities[quality].values())
        return {value: choice.share / total for value, choice in self.qualities[quality].items()}

    @cached_property
    def _patterns(self) -> _Patterns:
        return _Patterns(self)


class Replacement(Config):
    """What was made of a prompt: the text that is drawn, and the value drawn of each quality ({} if none)."""

    text: str
    drawn: dict[str, str] = Field(default_factory=dict)


def read_table(source: str | Path | FairnessTable) -> FairnessTable:
    """A table from its YAML file, or the packaged one by the name ``world``; CogViewError if it is wrong."""
    if isinstance(source, FairnessTable):
        return source
    if str(source) == WORLD and not Path(source).exists():
        return world()
    if not Path(source).is_file():
        raise CogViewError(f"{source}: no such table; give a YAML file, or the name {WORLD!r}")
    return read_yaml(FairnessTable, source)


@lru_cache(maxsize=1)
def world() -> FairnessTable:
    """Rounded shares of the world's people, with lists of words in Chinese and English."""
    text = resources.files("cogview.generation").joinpath("fairness.yaml").read_text(encoding="utf-8")
    return validate(FairnessTable, parse_yaml(text, "fairness.yaml"), "fairness.yaml")


def replace_words(prompt: str, table: FairnessTable, seed: int, index: int) -> Replacement:
    """The prompt with the missing qualities beside its first word for a person.

    A quality that any of its values' words names is left alone; a prompt without people is returned as it is.
    """
    patterns = table._patterns
    taken = _spans(patterns.excluded, prompt)
    person = min(_people(patterns, prompt, taken), default=None)
    if person is None:
        return Replacement(text=prompt)
    start, end, language = person
    drawn = {
        name: _draw(name, choices, seed, index)
        for name, choices in table.qualities.items()
        if not _spans(patterns.telling[name], prompt, taken)
    }
    chosen = [table.qualities[name][value] for name, value in drawn.items()]
    while described := patterns.describing[language].search(prompt[:start]):
        start = described.start()  # "a | female doctor"
    before, after = (
        [choice.words[language] for choice in chosen if choice.place == place]
        for place in ("before", "after")
    )
    text = prompt[:end] + _joined(after, language, " {}") + prompt[end:]
    text = text[:start] + _joined(before, language, "{} ") + text[start:]
    return Replacement(text=_article(text, start) if before and language == "en" else text, drawn=drawn)


def _joined(words: Iterable[str], language: Language, spaced: str) -> str:
    return "".join(word if language == "zh" else spaced.format(word) for word in words)


# --------------------------------------------------------------------------------------- finding words


class _Patterns:
    """A table's words, compiled: of people and adjectives by language, of what is excluded, of qualities."""

    def __init__(self, table: FairnessTable) -> None:
        self.people = {language: _anywhere(words) for language, words in table.people.items()}
        self.excluded = _anywhere(word for words in table.excluded.values() for word in words)
        self.telling = {name: _telling(table, choices) for name, choices in table.qualities.items()}
        self.describing = {language: _describing(table, language) for language in table.people}


def _people(patterns: _Patterns, prompt: str, taken: Spans) -> list[tuple[int, int, Language]]:
    """Start, end and language of the words for people; the longest where several start at one place."""
    found = patterns.people.items()
    return [(*span, language) for language, pattern in found for span in _spans(pattern, prompt, taken)]


def _spans(pattern: re.Pattern[str], text: str, taken: Spans = ()) -> Spans:
    """Where a pattern is found, but for what starts inside ``taken``."""
    spans = [match.span(match.lastindex or 0) for match in pattern.finditer(text)]
    return [span for span in spans if not any(first <= span[0] < last for first, last in taken)]


def _anywhere(words: Iterable[str], ahead: str = "") -> re.Pattern[str]:
    """Finds every place where one of the words starts, the longest first, and no place for no words."""
    longest = sorted(set(words), key=lambda word: (-len(word), word))
    either = "|".join(_expression(word) for word in longest) or "(?!)"
    return re.compile(f"(?=((?:{either}){ahead}))", re.IGNORECASE)


def _expression(word: str) -> str:
    """Whole words of Latin letters (a plural "s" allowed), anything else as it stands."""
    return rf"(?<!{LETTER}){re.escape(word)}s?(?!{LETTER})" if word.isascii() else re.escape(word)


def _telling(table: FairnessTable, choices: Mapping[str, Choice]) -> re.Pattern[str]:
    """What says that a prompt has decided a quality: words anywhere, or words beside a person.

    Beside: a person follows, at most BETWEEN words away, or a mark, "and", "or", "skin", Chinese or nothing.
    """
    named = {
        word for choice in choices.values() for language in LANGUAGES for word in choice.naming(language)
    }
    beside = {word for choice in choices.values() for words in choice.beside.values() for word in words}
    people = "|".join(re.escape(person) for person in table.people.get("en", ("person",)))
    described = rf"(?:\s+[\w'-]+){{0,{BETWEEN}}}?\s+(?:{people})s?\b"
    ahead = rf"(?={described}|\s+(?:and|or|skin|skinned)\b|\s*(?:[^\w\s]|$)|\s*[{HAN}])"
    return re.compile(f"{_anywhere(named).pattern}|{_anywhere(beside, ahead).pattern}", re.IGNORECASE)


def _describing(table: FairnessTable, language: Language) -> re.Pattern[str]:
    """A word of the table that describes a person, at the end of what stands before that person."""
    choices = [choice for own in table.qualities.values() for choice in own.values()]
    words = {w for c in choices for w in (*c.naming(language), *c.beside.get(language, ()))}
    either = "|".join(map(_expression, sorted(words))) or "(?!)"
    gap = "" if language == "zh" else r"\s+"
    return re.compile(f"(?:{either}){gap}$", re.IGNORECASE)


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


# ------------------------------------------------------------------------------------ for the pipelines


class Wording:
    """How the images of one request are worded: a table (or none), a seed, and how many share their words.

    ``together``: candidates of which one is kept; consecutive indices that get the same words.
    """

    def __init__(self, table: FairnessTable | None, name: str, seed: int, together: int = 1) -> None:
        self.table, self.name, self.seed, self.together = table, name, seed, together

    def replace(self, prompt: str, index: int) -> Replacement:
        """What is drawn for image ``index``."""
        if self.table is None:
            return Replacement(text=prompt)
        return replace_words(prompt, self.table, self.seed, index // self.together)

    def facts(self, made: Replacement) -> dict[str, Any]:
        """What the image's provenance says of it; nothing without a table."""
        if self.table is None:
            return {}
        told = {"table": self.name, "table_hash": self.table.fingerprint, "text": made.text}
        return {"fairness": {**told, "drawn": dict(made.drawn)}}


def wording(source: str | Path | FairnessTable | None, seed: int, together: int = 1) -> Wording:
    """The wording for a table's file or name, or None for prompts as they are."""
    if source is None:
        return Wording(None, "", seed)
    name = "table" if isinstance(source, FairnessTable) else Path(source).name
    return Wording(read_table(source), name, seed, together)
