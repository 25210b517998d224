"""icetk, CogView2's joint tokenizer for Chinese, English and images (CogView2, section 3).

One vocabulary: 20,000 image codes, then the 130,000 tokens of ``ice_text.model`` (SentencePiece, unigram),
sorted by language, then appended tokens: the released models' ``<start_of_image>``, ``<start_of_english>``
and ``<start_of_chinese>``.

The SentencePiece model normalises text (NFKC, case preserved, whitespace and line breaks collapsed to one
space, a leading space added); unknown characters become ``<unk>``. Line breaks are optionally kept as
``<n>``. :mod:`cogview.tokenizers.hvqvae` implements the image tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from cogview.errors import CogViewError
from cogview.tokenizers.text import TextTokenizer
from cogview.vocabulary import COGVIEW2_CONTROLS, COGVIEW2_LANGUAGES, Vocabulary

NEWLINE = "<n>"
PADDING = "<pad>"
IMAGE_CODES = 20_000
LANGUAGES: dict[Literal["en", "zh"], str] = {"en": "<start_of_english>", "zh": "<start_of_chinese>"}
_IMAGE = re.compile(r"<image_(\d{1,9})>")


class IceTokenizer:
    """Converts text to ids of the joint vocabulary and back, by icetk's rules.

    Args:
        text: the model in ``ice_text.model``, or another that has a token ``<n>``.
        specials: tokens appended to it, in order.
        image_codes: the number of ids before the first text token.

    Raises CogViewError if the model already has one of ``specials``.
    """

    def __init__(
        self,
        text: TextTokenizer,
        specials: Iterable[str] = COGVIEW2_CONTROLS,
        image_codes: int = IMAGE_CODES,
    ) -> None:
        self.plain, self.specials, self.image_codes = text, tuple(specials), image_codes
        self.text = text.extended(self.specials)

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        specials: Iterable[str] = COGVIEW2_CONTROLS,
        image_codes: int = IMAGE_CODES,
    ) -> IceTokenizer:
        """Load an ``ice_text.model``; raises CogViewError if it is damaged or another model."""
        return cls(TextTokenizer.from_file(path, newline=NEWLINE), specials, image_codes)

    def __len__(self) -> int:
        """Total number of ids."""
        return self.image_codes + self.text.pieces

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The joint vocabulary; with icetk's 130,000 tokens it has a range for each language."""
        known = self.plain.pieces == COGVIEW2_LANGUAGES[-1][2]
        return Vocabulary(
            image_codes=self.image_codes,
            text_pieces=self.plain.pieces,
            controls=self.specials,
            multiple=10,
            languages=COGVIEW2_LANGUAGES if known else (),
        )

    def encode(self, text: str, keep_newlines: bool = False) -> list[int]:
        """Ids of a text; special tokens written in it become one id each. Empty for an empty text.

        Line breaks count as spaces unless ``keep_newlines``; a literal ``<n>`` is always a line break.
        """
        return [piece + self.image_codes for piece in self.text.encode(text, keep_newlines)]

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids (n,), with ``<n>`` as a line break; raises CogViewError for other than text ids."""
        tokens = np.asarray(ids, dtype=np.int64).ravel()
        if tokens.size and tokens.min() < self.image_codes:
            raise CogViewError(
                f"token {tokens.min()} is not a text token; ids below {self.image_codes} are image codes"
            )
        return self.text.decode(tokens - self.image_codes)

    def tokens(self, text: str, keep_newlines: bool = False) -> list[str]:
        """The tokens of a text as strings; a leading ``▁`` stands for a space."""
        return self.text.split(text, keep_newlines)

    def token(self, token_id: int) -> str:
        """An id as a string: ``<image_17>`` or a text token; raises CogViewError outside the vocabulary."""
        if not 0 <= token_id < len(self):
            raise CogViewError(f"token {token_id} is outside the vocabulary's {len(self)}")
        if token_id < self.image_codes:
            return f"<image_{token_id}>"
        return self.text.piece(token_id - self.image_codes)

    def id(self, token: str) -> int:
        """The id of ``<image_17>`` or of a text token; that of ``<unk>`` for any other string."""
        if (image := _IMAGE.fullmatch(token)) and int(image[1]) < self.image_codes:
            return int(image[1])
        piece_id = self.text.piece_id(token)
        return self.image_codes + (self.text.unknown if piece_id is None else piece_id)

    def language(self, ids: ArrayLike) -> Literal["en", "zh"]:
        """``en`` if all ids (n,) come before the first Chinese token, else ``zh``, as released."""
        chinese = self.image_codes + dict((name, first) for name, first, _ in COGVIEW2_LANGUAGES)["zh"]
        return "en" if bool((np.asarray(ids, dtype=np.int64) < chinese).all()) else "zh"
