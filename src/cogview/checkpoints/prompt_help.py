"""Suggestions for words of a prompt that were not in a small model's training data.

A family may have ``words.json``: the words of its training captions and, for many other nouns of both
languages, the most similar things that it can generate. Looking up a prompt needs no model and no network.
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
SPELLING = 0.86  # minimum similarity of a misspelt word, 0 to 1
SHORT = 4  # words of up to this many letters are not corrected
LONGEST = 6  # largest number of Chinese characters in a name
_WORD = "[a-z]+(?:['’-][a-z]+)*"
_HAN = re.compile(f"[{HAN}]")
_RUN = re.compile(f"{_WORD}(?: {_WORD})*|[{HAN}]+")
_PLURALS = (("ies", "y"), ("ves", "f"), ("es", ""), ("s", ""))
Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = ("en", "zh")


@dataclass(frozen=True)
class UnknownWord:
    """An unknown word of a prompt, and up to three similar things, in the prompt's language."""

    word: str
    near: tuple[str, ...]

    def __str__(self) -> str:
        """The word and the suggestions in one line."""
        if _HAN.search(self.word):
            return f"没有学过“{self.word}”，相近的有：{'、'.join(self.near)}"
        return f"never learnt {self.word!r}; near it: {', '.join(self.near)}"


class _Words(Config):
    """The contents of ``words.json``. things: key to English and Chinese name; near: word to keys."""

    version: Literal[1]
    things: dict[str, tuple[str, str]]
    known: dict[Language, frozenset[str]]
    near: dict[Language, dict[str, tuple[str, ...]]]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for language in LANGUAGES:
            if language not in self.known or language not in self.near:
                raise ValueError(f"{language} is missing from known or near")
            if unknown := {key for keys in self.near[language].values() for key in keys} - self.things.keys():
                raise ValueError(f"near.{language} names {min(unknown)!r}, which is not in things")
        return self


class PromptHelp:
    """A family's table of words, read at first use; raises CogViewError then if it is invalid."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checked(self) -> PromptHelp:
        """Read and validate the file; returns self."""
        _ = self._listed
        return self

    def unknown(self, prompt: str) -> list[UnknownWord]:
        """The unknown words of a prompt for which there are suggestions, without duplicates.

        An unlisted word counts as misspelt if its spelling is similar to that of a listed word.
        """
        words: dict[str, UnknownWord] = {}
        for run in _RUN.findall(prompt.lower()):
            for word in self._chinese(run) if _HAN.match(run) else self._english(run):
                words.setdefault(word.word, word)
        return list(words.values())

    def _english(self, run: str) -> Iterator[UnknownWord]:
        """Unknown words in a run of Latin words; names of two words take precedence."""
        words, start = run.split(" "), 0
        while start < len(words):
            pair, single = " ".join(words[start : start + 2]), words[start]
            name = pair if self._listed_form(pair) else single
            start += name.count(" ") + 1
            listed = self._listed_form(name)
            corrected = listed or self._corrected(name)
            near = self._near(corrected, "en") or (() if listed or not corrected else (corrected,))
            if near:
                yield UnknownWord(name, near)

    def _listed_form(self, name: str) -> str | None:
        """The name or its singular, if it is listed."""
        return next((form for form in _singulars(name) if form in self._listed["en"]), None)

    def _corrected(self, word: str) -> str | None:
        """The listed word that is most similar to a misspelt one, with the same first letter.

        Two swapped letters count as one error.
        """
        if len(word) <= SHORT:
            return None
        candidates = [listed for listed in self._listed["en"] if listed[0] == word[0]]
        swapped = (word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(1, len(word) - 1))
        return next((x for x in swapped if x in candidates), None) or next(
            iter(get_close_matches(word, candidates, 1, SPELLING)), None
        )

    def _chinese(self, run: str) -> Iterator[UnknownWord]:
        """Unknown words in a run of Chinese characters; the longest listed name at each position counts."""
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
        """Names of things similar to a word; none for a known word."""
        if word is None or word in self._words.known[language]:
            return ()
        keys = self._words.near[language].get(word, ())
        return tuple(self._words.things[key][language == "zh"] for key in keys)

    @cached_property
    def _words(self) -> _Words:
        return read_json(_Words, self.path)

    @cached_property
    def _listed(self) -> dict[Language, frozenset[str]]:
        """All words that are known or have suggestions."""
        words = self._words
        return {language: words.known[language] | words.near[language].keys() for language in LANGUAGES}


def _singulars(name: str) -> Iterator[str]:
    """The name, then its possible singulars."""
    yield name
    for plural, singular in _PLURALS:
        if name.endswith(plural):
            yield name.removesuffix(plural) + singular
