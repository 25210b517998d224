"""Things that a small model knows, near the words of a prompt that it never learnt.

A family may hold ``words.json``: the words of its training captions and, for many other nouns of both
languages, the nearest things it can draw. Looking a prompt up needs no model and no network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from cogview.config import Config, read_json
from cogview.vocabulary import HAN

FILE = "words.json"
SPELLING = 0.86  # likeness of a misspelt word, 0 to 1
SHORT = 4  # letters of a word that may still be misspelt
LONGEST = 6  # Chinese characters of a name
_WORD = "[a-z]+(?:['’-][a-z]+)*"
_HAN = re.compile(f"[{HAN}]")
_RUN = re.compile(f"{_WORD}(?: {_WORD})*|[{HAN}]+")
_PLURALS = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""))
Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class UnknownWord:
    """A word of a prompt, as typed, and up to three things near it, in the prompt's language."""

    word: str
    near: tuple[str, ...]

    def __str__(self) -> str:
        """One line that says both."""
        if _HAN.search(self.word):
            return f"没有学过“{self.word}”，相近的有：{'、'.join(self.near)}"
        return f"never learnt {self.word!r}; near it: {', '.join(self.near)}"


class _Words(Config):
    """The file's contents. things: English and Chinese name by key; near: keys by word."""

    version: Literal[1]
    things: dict[str, tuple[str, str]]
    known: dict[Language, frozenset[str]]
    near: dict[Language, dict[str, tuple[str, ...]]]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for language in LANGUAGES:
            if language not in self.known or language not in self.near:
                raise ValueError(f"{language} is missing from known or near")
            if strange := {key for keys in self.near[language].values() for key in keys} - self.things.keys():
                raise ValueError(f"near.{language} names {min(strange)!r}, which is not in things")
        return self


class PromptHelp:
    """The table of a family's words. Raises CogViewError where it is read and is none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checked(self) -> PromptHelp:
        """Itself, its file read and checked."""
        _ = self._listed
        return self

    def unknown(self, prompt: str) -> list[UnknownWord]:
        """The words of a prompt that the model never learnt and something near is known for, each once.

        A word that is in no list counts as misspelt where a known one is written almost like it.
        """
        found: dict[str, UnknownWord] = {}
        for run in _RUN.findall(prompt.lower()):
            for word in self._chinese(run) if _HAN.match(run) else self._english(run):
                found.setdefault(word.word, word)
        return list(found.values())

    def _english(self, run: str) -> Iterator[UnknownWord]:
        """Of words of Latin letters with single spaces between them, names of two words first."""
        words, start = run.split(" "), 0
        while start < len(words):
            pair, single = " ".join(words[start : start + 2]), words[start]
            name = pair if self._form(pair) else single
            start += name.count(" ") + 1
            form = self._form(name)
            meant = form or self._respelt(name)
            near = self._near(meant, "en") or (() if form or not meant else (meant,))
            if near:
                yield UnknownWord(name, near)

    def _form(self, name: str) -> str | None:
        """A name or its singular as it is listed."""
        return next((form for form in _singulars(name) if form in self._listed["en"]), None)

    def _respelt(self, word: str) -> str | None:
        """The listed word that a misspelt one is most like; its first letter counts as right.

        Two letters that changed places are one slip.
        """
        if len(word) <= SHORT:
            return None
        alike = [listed for listed in self._listed["en"] if listed[0] == word[0]]
        swapped = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
        return next((x for x in swapped if x in alike), None) or next(
            iter(get_close_matches(word, alike, 1, SPELLING)), None
        )

    def _chinese(self, run: str) -> Iterator[UnknownWord]:
        """Of Chinese characters, the longest names first; what is in no list is passed over."""
        start = 0
        while start < len(run):
            name = next(
                (run[start:end] for end in range(min(len(run), start + LONGEST), start, -1)
                 if run[start:end] in self._listed["zh"]),
                run[start],
            )  # fmt: skip
            start += len(name)
            if near := self._near(name, "zh"):
                yield UnknownWord(name, near)

    def _near(self, word: str | None, language: Language) -> tuple[str, ...]:
        """Names of the things near a word, none for a known one."""
        if word is None or word in self._words.known[language]:
            return ()
        keys = self._words.near[language].get(word, ())
        return tuple(self._words.things[key][language == "zh"] for key in keys)

    @cached_property
    def _words(self) -> _Words:
        return read_json(_Words, self.path)

    @cached_property
    def _listed(self) -> dict[Language, frozenset[str]]:
        """Every word that is known or has something near it."""
        words = self._words
        return {language: words.known[language] | words.near[language].keys() for language in LANGUAGES}


def _singulars(name: str) -> Iterator[str]:
    """A name as it stands, then what it may be the plural of."""
    yield name
    for plural, singular in _PLURALS:
        if name.endswith(plural):
            yield name.removesuffix(plural) + singular
