"""What text tokens are written in, and a vocabulary sorted by it (CogView2, section 3.2).

icetk's authors "classify them as Chinese, English, Common or Rare Symbols, so that we can specify the
generated language via a sampling mask": its tokens lie in four runs, and a language is a range of ids.
``sorted_by_class`` puts any model's tokens in such an order; texts are cut into the same tokens.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Protocol

from cogview.tokenizers.text import TextTokenizer, join_fields, split_fields
from cogview.vocabulary import COMMON, HAN

CLASSES = (COMMON, "en", "zh", "rare")

_HAN = re.compile(f"[{HAN}]")
_BYTE = re.compile("<0x[0-9A-F]{2}>")
CONTROL = re.compile("<(unk|s|/s|pad|n)>")


class Pieces(Protocol):
    """The part of a text tokenizer that says how its tokens are written."""

    @property
    def pieces(self) -> int: ...
    def piece(self, piece_id: int) -> str: ...


def is_chinese(text: str) -> bool:
    """Whether there is a Chinese character in a text; punctuation belongs to no language."""
    return _HAN.search(text) is not None


def writing_of(piece: str) -> set[str]:
    """What a piece is written in, some of ``zh``, ``en`` (Latin letters), ``other``; empty: common to all."""
    if _BYTE.fullmatch(piece) or CONTROL.fullmatch(piece):
        return {"other"}
    return {_writing(character) for character in piece} - {""}


def _writing(character: str) -> str:
    if is_chinese(character):
        return "zh"
    if not character.isalpha():
        return "" if character.isprintable() else "other"
    return "en" if unicodedata.name(character, "").startswith(("LATIN", "FULLWIDTH LATIN")) else "other"


def belongs(writing: set[str], language: str) -> bool:
    """Chinese may hold a Latin letter within a word (T恤), not words of them."""
    return writing <= {language} or (language == "zh" and writing == {"zh", "en"})


def class_of(piece: str) -> str:
    """One of ``CLASSES``; single bytes and other scripts are rare."""
    writing = writing_of(piece)
    if not writing:
        return COMMON
    return next((language for language in ("en", "zh") if belongs(writing, language)), "rare")


def sorted_by_class(text: TextTokenizer) -> TextTokenizer:
    """The same tokens in the order of ``CLASSES``, behind the unknown one; within a class as they were."""
    fields = split_fields(text.model)
    pieces = [content for number, content in fields if number == 1]  # ModelProto.pieces
    places = sorted(range(1, len(pieces)), key=lambda number: CLASSES.index(class_of(text.piece(number))))
    order = iter([pieces[0], *(pieces[place] for place in places)])
    moved = [(number, next(order) if number == 1 else content) for number, content in fields]
    return TextTokenizer(join_fields(moved), text.newline)


def class_runs(text: Pieces) -> tuple[tuple[str, int, int], ...]:
    """Name, first piece and the one after the last of each class's run; empty where they are not sorted."""
    names = [class_of(text.piece(number)) for number in range(1, text.pieces)]
    numbers = [CLASSES.index(name) for name in names]
    if numbers != sorted(numbers) or len(set(numbers)) < 2:
        return ()
    found, first = [], 1
    for name in CLASSES:
        end = first + names.count(name)
        found.append((name, first, end))
        first = end
    return tuple(found)
