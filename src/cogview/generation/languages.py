"""Which text pieces belong to which language, so that a caption can be kept to one (CogView2, section 3).

CogView2's vocabulary is sorted by language; any other tokenizer is sorted here by what its pieces are
written in. Digits, punctuation and spaces are common to all.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.tokenizers.text import TextTokenizer
from cogview.vocabulary import Vocabulary

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")

_HAN = re.compile("[\\u3005\\u3007\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff\\U00020000-\\U0003ffff]")
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_CONTROL = re.compile("<(unk|s|/s|pad|n)>")


def is_chinese(text: str) -> bool:
    """Whether there is a Chinese character in a text; punctuation belongs to no language."""
    return _HAN.search(text) is not None


def language(text: str) -> Language:
    """``zh`` for a text with a Chinese character in it, else ``en``."""
    return "zh" if is_chinese(text) else "en"


def writing_of(piece: str) -> set[str]:
    """What a piece is written in, some of ``zh``, ``en`` (Latin letters), ``other``; empty: common to all."""
    if _BYTE.fullmatch(piece) or _CONTROL.fullmatch(piece):
        return {"other"}
    return {_writing(character) for character in piece} - {""}


def _writing(character: str) -> str:
    if is_chinese(character):
        return "zh"
    if not character.isalpha():
        return "" if character.isprintable() else "other"
    return "en" if unicodedata.name(character, "").startswith(("LATIN", "FULLWIDTH LATIN")) else "other"


def allowed_pieces(text: TextTokenizer, vocabulary: Vocabulary, language: str | None = None) -> Tensor:
    """bool (text_pieces,): the pieces that a text in ``language`` may have; None: in any language.

    In a language, what its pieces cannot spell does not come; in any, single bytes may. Pieces that stand
    for nothing never come. Raises CogViewError for a language that cannot be told apart.
    """
    if language is not None and language not in LANGUAGES:
        raise CogViewError(f"no language {language!r}; there are {' and '.join(LANGUAGES)}")
    if language is not None and vocabulary.languages:
        allowed = torch.zeros(vocabulary.text_pieces, dtype=torch.bool)
        for ids in vocabulary.spoken(language):
            allowed[ids.start - vocabulary.texts.start : ids.stop - vocabulary.texts.start] = True
        return allowed
    pieces = [text.piece(number) for number in range(vocabulary.text_pieces)]
    if language is None:
        return torch.tensor([not _CONTROL.fullmatch(piece) for piece in pieces])
    return torch.tensor([_belongs(writing_of(piece), language) for piece in pieces])


def _belongs(writing: set[str], language: str) -> bool:
    """Chinese may hold a Latin letter within a word (T恤), not words of them."""
    return writing <= {language} or (language == "zh" and writing == {"zh", "en"})
