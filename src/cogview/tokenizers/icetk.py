"""CogView2's one tokenizer for Chinese, English and images: icetk (CogView2, section 3).

One id space: 20,000 image codes, then the 130,000 tokens of ``ice_text.model`` (SentencePiece, unigram),
sorted by language, then tokens appended as needed: the released models' ``<start_of_image>``,
``<start_of_english>`` and ``<start_of_chinese>``.

A text is normalised by the model itself (NFKC, case kept, runs of blanks and line breaks become one space, a
space is put in front); what it cannot spell is ``<unk>``. Line breaks survive, as ``<n>``, if asked.
Images are the business of :mod:`cogview.tokenizers.hvqvae`.
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
    """Text to ids of the whole vocabulary and back, by icetk's rules.

    Args:
        text: the model in ``ice_text.model``, or another that has a piece ``<n>``.
        specials: tokens appended to it, in order.
        image_codes: how many ids stand before the first piece.

    Raises CogViewError where the model has one of ``specials`` already.
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
        """The tokenizer of an ``ice_text.model``; CogViewError where it is damaged or another model's."""
        return cls(TextTokenizer.from_file(path, newline=NEWLINE), specials, image_codes)

    def __len__(self) -> int:
        """Ids in all."""
        return self.image_codes + self.text.pieces

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The arrangement of the ids; with icetk's 130,000 tokens the languages have ranges of their own."""
        known = self.plain.pieces == COGVIEW2_LANGUAGES[-1][2]
        return Vocabulary(
            image_codes=self.image_codes,
            text_pieces=self.plain.pieces,
            controls=self.specials,
            multiple=10,
            languages=COGVIEW2_LANGUAGES if known else (),
        )

    def encode(self, text: str, keep_newlines: bool = False) -> list[int]:
        """Ids of a text, written-out specials among them as one id each; empty for an empty text.

        Line breaks count as spaces unless ``keep_newlines``; a written-out ``<n>`` always is one.
        """
        return [piece + self.image_codes for piece in self.text.encode(text, keep_newlines)]

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids (n,), ``<n>`` as a line break; CogViewError for one that is not a text's."""
        tokens = np.asarray(ids, dtype=np.int64).ravel()
        if tokens.size and tokens.min() < self.image_codes:
            raise CogViewError(f"token {tokens.min()} is an image code's or no token; a text has none")
        return self.text.decode(tokens - self.image_codes)

    def tokens(self, text: str, keep_newlines: bool = False) -> list[str]:
        """The parts of a text that are one id each; a leading ``▁`` stands for a space."""
        return self.text.split(text, keep_newlines)

    def token(self, token_id: int) -> str:
        """How an id is written: ``<image_17>``, or a piece; CogViewError outside the vocabulary."""
        if not 0 <= token_id < len(self):
            raise CogViewError(f"token {token_id} is outside the vocabulary's {len(self)}")
        if token_id < self.image_codes:
            return f"<image_{token_id}>"
        return self.text.piece(token_id - self.image_codes)

    def id(self, token: str) -> int:
        """The id of ``<image_17>`` or of a piece; that of ``<unk>`` for a string that is no piece."""
        if (image := _IMAGE.fullmatch(token)) and int(image[1]) < self.image_codes:
            return int(image[1])
        found = self.text.piece_id(token)
        return self.image_codes + (self.text.unknown if found is None else found)

    def language(self, ids: ArrayLike) -> Literal["en", "zh"]:
        """``en`` where all ids (n,) come before the first Chinese piece, else ``zh``, as released."""
        chinese = self.image_codes + dict((name, first) for name, first, _ in COGVIEW2_LANGUAGES)["zh"]
        return "en" if bool((np.asarray(ids, dtype=np.int64) < chinese).all()) else "zh"
