"""Word replacing (CogView, appendix D): words for gender and origin are added to prompts about people that do
not mention them, sampled from given proportions.

The paper trains a network to detect words about people; here they are listed in a table and matched as whole
words in English and as substrings in Chinese, with rules for ambiguous words (a white coat says nothing about
origin). Words are a function of (seed, index), so image *i* of a seed gets the same words alone and in any
batch. Word replacing is off by default, and the added words are recorded in the image's provenance.
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
BETWEEN = 2  # largest number of words between an ambiguous word and the person it describes
LETTER = rf"[^\W{HAN}]"
WORLD = "world"


class Choice(Config):
    """One value of a quality: its share, the words that are added, and words that already express it.

    words: the added words by language. place: ``before`` the word for the person, or ``after`` it ("with
    brown hair"; Chinese words include their comma). named: words whose presence means that the prompt already
    specifies the quality (default: ``words``). beside: words that do so only before a person, such as "white"
    in "a white man" but not in "a white coat".
    """

    share: float = Field(gt=0, allow_inf_nan=False)
    words: dict[Language, str]
    place: Literal["before", "after"] = "before"
    named: dict[Language, tuple[str, ...]] = Field(default_factory=dict)
    beside: dict[Language, tuple[str, ...]] = Field(default_factory=dict)

    def naming(self, language: Language) -> tuple[str, ...]:
        """``named``; if neither it nor ``beside`` has words of the language, ``words``."""
        default = () if language in self.beside else (self.words[language],) if language in self.words else ()
        return self.named.get(language, default)


class FairnessTable(Config):
    """Words for people by language, similar words with another meaning, and the qualities to sample.

    people: words to search for; the first match in the text is used, the longest at its position. excluded:
    words that contain one of those but mean something else (a snowman). qualities: name to {value: choice};
    the added words are in this order. Shares need not sum to 1.
    """

    people: dict[Language, Words]
    excluded: dict[Language, tuple[str, ...]] = Field(default_factory=dict)
    qualities: dict[str, dict[str, Choice]] = Field(min_length=1)

    @model_validator(mode="after")
    def _has_choices(self) -> Self:
        for name, choices in self.qualities.items():
            if not choices:
                raise ValueError(f"qualities.{name} has no values")
            for value, choice in choices.items():
                missing = set(self.people) - set(choice.words)
                if missing:
                    raise ValueError(f"qualities.{name}.{value} has no word in {sorted(missing)[0]!r}")
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
    """The result of word replacing: the text, and the sampled value of each quality ({} if none)."""

    text: str
    drawn: dict[str, str] = Field(default_factory=dict)


def read_table(source: str | Path | FairnessTable) -> FairnessTable:
    """A table from a YAML file, or the packaged table ``world``; raises CogViewError if it is invalid."""
    if isinstance(source, FairnessTable):
        return source
    if str(source) == WORLD and not Path(source).exists():
        return world()
    if not Path(source).is_file():
        raise CogViewError(f"{source}: no such table; give a YAML file or the name {WORLD!r}")
    return read_yaml(FairnessTable, source)


@lru_cache(maxsize=1)
def world() -> FairnessTable:
    """The packaged table: rounded shares of the world's population, with words in Chinese and English."""
    text = resources.files("cogview.generation").joinpath("fairness.yaml").read_text(encoding="utf-8")
    return validate(FairnessTable, parse_yaml(text, "fairness.yaml"), "fairness.yaml")


def replace_words(prompt: str, table: FairnessTable, seed: int, index: int) -> Replacement:
    """Add words for the missing qualities next to the first word for a person.

    Qualities that the prompt already mentions are skipped; a prompt without people is returned unchanged.
    """
    patterns = table._patterns
    excluded = _spans(patterns.excluded, prompt)
    person = min(_people(patterns, prompt, excluded), default=None)
    if person is None:
        return Replacement(text=prompt)
    start, end, language = person
    drawn = {
        name: _sample(name, choices, seed, index)
        for name, choices in table.qualities.items()
        if not _spans(patterns.mentions[name], prompt, excluded)
    }
    selected = [table.qualities[name][value] for name, value in drawn.items()]
    while adjective := patterns.adjectives[language].search(prompt[:start]):
        start = adjective.start()  # "a | female doctor"
    before, after = (
        [choice.words[language] for choice in selected if choice.place == place]
        for place in ("before", "after")
    )
    text = prompt[:end] + _joined(after, language, " {}") + prompt[end:]
    text = text[:start] + _joined(before, language, "{} ") + text[start:]
    return Replacement(text=_article(text, start) if before and language == "en" else text, drawn=drawn)


def _joined(words: Iterable[str], language: Language, spaced: str) -> str:
    return "".join(word if language == "zh" else spaced.format(word) for word in words)


# --------------------------------------------------------------------------------------- finding words


class _Patterns:
    """Compiled patterns of a table: people and adjectives by language, excluded words, qualities."""

    def __init__(self, table: FairnessTable) -> None:
        self.people = {language: _anywhere(words) for language, words in table.people.items()}
        self.excluded = _anywhere(word for words in table.excluded.values() for word in words)
        self.mentions = {name: _mention(table, choices) for name, choices in table.qualities.items()}
        self.adjectives = {language: _adjective(table, language) for language in table.people}


def _people(patterns: _Patterns, prompt: str, excluded: Spans) -> list[tuple[int, int, Language]]:
    """Start, end and language of the words for people; the longest at each position."""
    people = patterns.people.items()
    return [(*span, language) for language, pattern in people for span in _spans(pattern, prompt, excluded)]


def _spans(pattern: re.Pattern[str], text: str, excluded: Spans = ()) -> Spans:
    """The spans of a pattern's matches, except those that start inside ``excluded``."""
    spans = [match.span(match.lastindex or 0) for match in pattern.finditer(text)]
    return [span for span in spans if not any(first <= span[0] < last for first, last in excluded)]


def _anywhere(words: Iterable[str], ahead: str = "") -> re.Pattern[str]:
    """Matches every position where one of the words starts, the longest first; nothing without words."""
    longest = sorted(set(words), key=lambda word: (-len(word), word))
    either = "|".join(_expression(word) for word in longest) or "(?!)"
    return re.compile(f"(?=((?:{either}){ahead}))", re.IGNORECASE)


def _expression(word: str) -> str:
    """ASCII words match as whole words (a plural "s" allowed), others as substrings."""
    return rf"(?<!{LETTER}){re.escape(word)}s?(?!{LETTER})" if word.isascii() else re.escape(word)


def _mention(table: FairnessTable, choices: Mapping[str, Choice]) -> re.Pattern[str]:
    """Matches if a prompt already mentions a quality: ``named`` words anywhere, ``beside`` words only before
    a person.

    Before a person: a word for a person follows with at most ``BETWEEN`` words between, or punctuation,
    "and", "or", "skin", a Chinese character or the end of the text.
    """
    named = {
        word for choice in choices.values() for language in LANGUAGES for word in choice.naming(language)
    }
    beside = {word for choice in choices.values() for words in choice.beside.values() for word in words}
    people = "|".join(re.escape(word) for word in table.people.get("en", ("person",)))
    person = rf"(?:\s+[\w'-]+){{0,{BETWEEN}}}?\s+(?:{people})s?\b"
    ahead = rf"(?={person}|\s+(?:and|or|skin|skinned)\b|\s*(?:[^\w\s]|$)|\s*[{HAN}])"
    return re.compile(f"{_anywhere(named).pattern}|{_anywhere(beside, ahead).pattern}", re.IGNORECASE)


def _adjective(table: FairnessTable, language: Language) -> re.Pattern[str]:
    """Matches a word of the table that describes a person, at the end of the text before that person."""
    choices = [choice for values in table.qualities.values() for choice in values.values()]
    words = {w for c in choices for w in (*c.naming(language), *c.beside.get(language, ()))}
    either = "|".join(map(_expression, sorted(words))) or "(?!)"
    gap = "" if language == "zh" else r"\s+"
    return re.compile(f"(?:{either}){gap}$", re.IGNORECASE)


def _sample(quality: str, choices: Mapping[str, Choice], seed: int, index: int) -> str:
    """Sample a value by its share; the result is a function of quality, seed and index."""
    digest = hashlib.sha256(f"{quality}\0{seed}\0{index}".encode()).digest()
    rest = int.from_bytes(digest[:8], "big") / 2**64 * sum(choice.share for choice in choices.values())
    for value, choice in choices.items():
        rest -= choice.share
        if rest < 0:
            return value
    return value


def _article(text: str, start: int) -> str:
    """Correct an indefinite article before ``start`` to "a" or "an", as the word at ``start`` requires."""
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
    """Word replacing for the images of one request: a table (or none) and a seed.

    ``together``: number of consecutive indices that get the same words: the candidates of one image.
    """

    def __init__(self, table: FairnessTable | None, name: str, seed: int, together: int = 1) -> None:
        self.table, self.name, self.seed, self.together = table, name, seed, together

    def replace(self, prompt: str, index: int) -> Replacement:
        """Replace words in the prompt of image ``index``."""
        if self.table is None:
            return Replacement(text=prompt)
        return replace_words(prompt, self.table, self.seed, index // self.together)

    def facts(self, replacement: Replacement) -> dict[str, Any]:
        """The image's provenance entry; empty without a table."""
        if self.table is None:
            return {}
        entry = {"table": self.name, "table_hash": self.table.fingerprint, "text": replacement.text}
        return {"fairness": {**entry, "drawn": dict(replacement.drawn)}}


def wording(source: str | Path | FairnessTable | None, seed: int, together: int = 1) -> Wording:
    """The wording for a table's file or name; with None, prompts stay unchanged."""
    if source is None:
        return Wording(None, "", seed)
    name = "table" if isinstance(source, FairnessTable) else Path(source).name
    return Wording(read_table(source), name, seed, together)
