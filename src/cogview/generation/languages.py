"""The text tokens of each language, to restrict captions to one (CogView2, section 3).

CogView2's vocabulary is sorted by language; tokens of other tokenizers are classified by their script.
Digits, punctuation and spaces belong to all languages.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cogview.errors import CogViewError
from cogview.tokenizers.language_classes import CONTROL, belongs, is_chinese, writing_of
from cogview.tokenizers.text import TextTokenizer
from cogview.vocabulary import Vocabulary

Language = Literal["zh", "en"]
LANGUAGES: tuple[Language, ...] = ("zh", "en")


def language(text: str) -> Language:
    """``zh`` for a text with at least one Chinese character, else ``en``."""
    return "zh" if is_chinese(text) else "en"


def allowed_tokens(
    text: TextTokenizer, vocabulary: Vocabulary, language: str | None = None
) -> NDArray[np.bool_]:
    """bool (text_pieces,): the tokens that are allowed in a text in ``language``; None: in any language.

    Byte tokens are allowed only without a language, control tokens never. Raises CogViewError for an unknown
    language.
    """
    if language is not None and language not in LANGUAGES:
        raise CogViewError(f"no language {language!r}; use {' or '.join(LANGUAGES)}")
    if language is not None and vocabulary.languages:
        allowed = np.zeros(vocabulary.text_pieces, dtype=np.bool_)
        for ids in vocabulary.language_ids(language):
            allowed[ids.start - vocabulary.texts.start : ids.stop - vocabulary.texts.start] = True
        return allowed
    pieces = [text.piece(number) for number in range(vocabulary.text_pieces)]
    if language is None:
        return np.array([not CONTROL.fullmatch(piece) for piece in pieces])
    return np.array([belongs(writing_of(piece), language) for piece in pieces])
