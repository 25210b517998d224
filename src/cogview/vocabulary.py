"""The joint vocabulary of image codes, text tokens and control tokens (CogView, sec. 2.1; CogView2, sec. 3).

Every token of a sequence is one integer. The order is always image, text, controls, and then padding rows
that round up the size of the embedding matrix::

    0 ... image_codes | ... + text_pieces | ... + controls | padding ... padded_size

CogView: 8192 codes, 50,000 text tokens, 27 controls, 58,219 in all, 58,240 rows. CogView2: icetk's 20,000
codes and 130,000 text tokens, and three controls. The text tokens are grouped by language, so that generated
text can be restricted to one language by ranges of ids (CogView2, section 3).
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.types import Ids

Kind = Literal["image", "text", "control", "padding"]

CONTROLS: tuple[str, ...] = (
    "[PAD]",
    "[BOI1]",
    "[BOI2]",
    "[BOI3]",
    "[EOI1]",
    "[EOI2]",
    "[EOI3]",
    "[ROI1]",
    "[ROI2]",
    "[ROI3]",
    "[SEP]",
    "[MASK]",
    "[CLS]",
    "[ENC]",
    "[TINY]",
    "[SMALL]",
    "[BASE]",
    "[BIG]",
    *(f"[POS{i}]" for i in range(9)),
)
COGVIEW2_CONTROLS = ("<start_of_image>", "<start_of_english>", "<start_of_chinese>")
MOST = 1 << 24  # ids of one kind
COMMON = "common"  # punctuation and digits, part of every language
# Chinese characters, for a character class of a regular expression
HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
COGVIEW2_LANGUAGES = (
    (COMMON, 0, 100),
    ("en", 100, 63_823),
    ("zh", 63_823, 125_653),
    ("rare", 125_653, 130_000),
)


class Vocabulary(Config):
    """The number of ids of each kind, and their ranges.

    ``controls`` are the names of the control tokens in order; the number of rows of the embedding matrix is
    rounded up to a multiple of ``multiple``. ``languages``: if the text tokens are sorted by language, the
    name, first token and end (exclusive) of each run in order.
    """

    image_codes: int = Field(ge=1, le=MOST)
    text_pieces: int = Field(ge=0, le=MOST)
    controls: tuple[str, ...] = Field(CONTROLS, max_length=4096)
    multiple: int = Field(128, ge=1, le=1 << 20)
    languages: tuple[tuple[str, int, int], ...] = Field((), max_length=4096)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.controls)) != len(self.controls):
            raise ValueError("controls: a name appears twice")
        bounds = [bound for _, first, end in self.languages for bound in (first, end)]
        if bounds != sorted(bounds) or not all(0 <= bound <= self.text_pieces for bound in bounds):
            raise ValueError(f"languages: not runs of the {self.text_pieces} text tokens in order")
        if len({name for name, _, _ in self.languages}) != len(self.languages):
            raise ValueError("languages: a name appears twice")
        return self

    @classmethod
    def cogview(cls) -> Vocabulary:
        """CogView's arrangement: 58,219 ids in 58,240 rows."""
        return cls(image_codes=8192, text_pieces=50_000)

    @classmethod
    def cogview2(cls) -> Vocabulary:
        """CogView2's: 150,003 ids; the released matrices have 150,010 rows, hence a multiple of ten."""
        return cls(
            image_codes=20_000,
            text_pieces=130_000,
            controls=COGVIEW2_CONTROLS,
            multiple=10,
            languages=COGVIEW2_LANGUAGES,
        )

    @property
    def size(self) -> int:
        """Number of ids without padding."""
        return self.image_codes + self.text_pieces + len(self.controls)

    @property
    def padded_size(self) -> int:
        """Number of rows of the embedding matrix on one device."""
        return self.padded_for(1)

    def padded_for(self, shards: int) -> int:
        """Rows if the matrix is split over ``shards`` devices: a multiple of ``multiple * shards``."""
        step = self.multiple * shards
        return -(-self.size // step) * step

    @property
    def images(self) -> range:
        """Ids of image codes; code c has the id c."""
        return range(self.image_codes)

    @property
    def texts(self) -> range:
        """Ids of text tokens."""
        return range(self.image_codes, self.image_codes + self.text_pieces)

    @property
    def control_ids(self) -> range:
        """Ids of control tokens, in the order of ``controls``."""
        return range(self.texts.stop, self.size)

    def control(self, name: str) -> int:
        """The id of a control token such as ``[BOI1]``; raises CogViewError for an unknown name."""
        try:
            return self.texts.stop + self.controls.index(name)
        except ValueError:
            raise CogViewError(
                f"no control token {name!r} in this vocabulary; it has {' '.join(self.controls)}"
            ) from None

    def piece(self, piece: int) -> int:
        """The id of the text tokenizer's token ``piece`` (0-based)."""
        if not 0 <= piece < self.text_pieces:
            raise CogViewError(
                f"text token {piece} is outside the vocabulary's {self.text_pieces}: the tokenizer differs"
            )
        return self.texts.start + piece

    def text_ids(self, text: ArrayLike, limit: int) -> Ids:
        """Ids (n,) of text tokens (n,), which are 0-based as the tokenizer returns them.

        Raises CogViewError if there are more than ``limit``, or they are from another tokenizer.
        """
        tokens = np.asarray(text, dtype=np.int64).ravel()
        if tokens.size > limit:
            raise CogViewError(
                f"the text has {tokens.size} tokens and {limit} fit; shorten it", field="prompt"
            )
        if tokens.size and (tokens.min() < 0 or tokens.max() >= self.text_pieces):
            raise CogViewError(
                f"a text token is outside the vocabulary's {self.text_pieces}: the tokenizer differs"
            )
        return tokens + self.texts.start

    def image_ids(self, codes: ArrayLike, expected: int) -> Ids:
        """Ids (expected,) of an image's codes; raises CogViewError if their number or range is wrong."""
        image = np.asarray(codes, dtype=np.int64).ravel()
        if image.size != expected:
            raise CogViewError(f"the image has {image.size} codes, this format takes {expected}")
        if image.size and (image.min() < 0 or image.max() >= self.image_codes):
            raise CogViewError(
                f"an image code is outside the vocabulary's {self.image_codes}: the tokenizer differs"
            )
        return image

    def kind(self, token: int) -> Kind:
        """The kind of the id ``token``; raises CogViewError outside the padded vocabulary."""
        if not 0 <= token < self.padded_size:
            raise CogViewError(f"token {token} is outside the vocabulary of {self.padded_size} rows")
        if token < self.texts.start:
            return "image"
        if token < self.texts.stop:
            return "text"
        return "control" if token < self.size else "padding"

    def language(self, name: str) -> range:
        """Ids of the text tokens of a language; raises CogViewError for an unknown language."""
        for language, first, end in self.languages:
            if language == name:
                return self.texts[first:end]
        known = " ".join(language for language, _, _ in self.languages) or "none"
        raise CogViewError(f"no language {name!r} in this vocabulary; it knows {known}")

    def language_ids(self, *languages: str) -> list[range]:
        """Ids that a text in these languages may contain: the tokens common to all languages, then theirs."""
        common = [COMMON] if any(name == COMMON for name, _, _ in self.languages) else []
        return [self.language(name) for name in dict.fromkeys((*common, *languages))]

    def name(self, token: int) -> str:
        """The name of a control token; raises CogViewError for an id of another kind."""
        if token not in self.control_ids:
            raise CogViewError(f"token {token} is not a control token")
        return self.controls[token - self.texts.stop]
