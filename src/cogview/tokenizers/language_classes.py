"""The language class of text tokens, and tokenizers sorted by it (CogView2, section 3.2).

icetk's authors "classify them as Chinese, English, Common or Rare Symbols, so that we can specify the
generated language via a sampling mask": its tokens form four runs, and a language is a range of ids.
``sorted_by_class`` sorts any model's tokens in this order; texts are still split into the same tokens.
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
    """The part of a text tokenizer's interface that returns tokens as strings."""

    @property
    def pieces(self) -> int: ...
    def piece(self, piece_id: int) -> str: ...


def is_chinese(text: str) -> bool:
    """Whether a text contains a Chinese character; punctuation belongs to no language."""
    return _HAN.search(text) is not None


def writing_of(piece: str) -> set[str]:
    """The scripts of a token: a subset of ``zh``, ``en`` (Latin letters), ``other``; empty: common to all."""
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
    """Whether a token of these scripts is of a language; a Chinese word may contain a Latin letter (T恤)."""
    return writing <= {language} or (language == "zh" and writing == {"zh", "en"})


def class_of(piece: str) -> str:
    """The class of a token, one of ``CLASSES``; single bytes and other scripts are rare."""
    writing = writing_of(piece)
    if not writing:
        return COMMON
    return next((language for language in ("en", "zh") if belongs(writing, language)), "rare")


def sorted_by_class(text: TextTokenizer) -> TextTokenizer:
    """The tokenizer with its tokens, after the unknown token, stably sorted in the order of ``CLASSES``."""
    fields = split_fields(text.model)
    pieces = [content for number, content in fields if number == 1]  # ModelProto.pieces
    order = sorted(range(1, len(pieces)), key=lambda index: CLASSES.index(class_of(text.piece(index))))
    ordered = iter([pieces[0], *(pieces[index] for index in order)])
    sorted_fields = [(number, next(ordered) if number == 1 else content) for number, content in fields]
    return TextTokenizer(join_fields(sorted_fields), text.newline)


def class_runs(text: Pieces) -> tuple[tuple[str, int, int], ...]:
    """Name, first token and end (exclusive) of each class's run; empty if the tokens are not sorted."""
    names = [class_of(text.piece(index)) for index in range(1, text.pieces)]
    classes = [CLASSES.index(name) for name in names]
    if classes != sorted(classes) or len(set(classes)) < 2:
        return ()
    runs, first = [], 1
    for name in CLASSES:
        end = first + names.count(name)
        runs.append((name, first, end))
        first = end
    return tuple(runs)
