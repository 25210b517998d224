"""The one id space: image codes, text pieces and control tokens (CogView, section 2.1; CogView2, section 3).

Every token of a sequence is one integer. The order is always image, text, controls; then padding rows so
that the embedding matrix has a round size::

    0 ... image_codes | ... + text_pieces | ... + controls | padding ... padded_size

CogView: 8192 codes, 50,000 pieces, 27 controls, 58,219 in all, 58,240 rows. CogView2: icetk's 20,000 codes
and 130,000 pieces, three more tokens.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from cogview.config import Config
from cogview.errors import CogViewError

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


class Vocabulary(Config):
    """How many ids of each kind there are, and which is which.

    ``controls`` are the names of the control tokens in order; ``multiple`` is what the number of rows of the
    embedding matrix is rounded up to.
    """

    image_codes: int = Field(ge=1)
    text_pieces: int = Field(ge=0)
    controls: tuple[str, ...] = CONTROLS
    multiple: int = Field(128, ge=1)

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.controls)) != len(self.controls):
            raise ValueError("controls: a name stands twice")
        return self

    @classmethod
    def cogview(cls) -> Vocabulary:
        """CogView's arrangement: 58,219 ids in 58,240 rows."""
        return cls(image_codes=8192, text_pieces=50_000)

    @classmethod
    def cogview2(cls) -> Vocabulary:
        """CogView2's arrangement: 150,003 ids; the released matrices have 150,010 rows, hence the ten."""
        return cls(image_codes=20_000, text_pieces=130_000, controls=COGVIEW2_CONTROLS, multiple=10)

    @property
    def size(self) -> int:
        """Ids that mean something."""
        return self.image_codes + self.text_pieces + len(self.controls)

    @property
    def padded_size(self) -> int:
        """Rows of the embedding matrix on one device."""
        return self.padded_for(1)

    def padded_for(self, shards: int) -> int:
        """Rows when the matrix is split over ``shards`` devices: a multiple of ``multiple * shards``."""
        step = self.multiple * shards
        return -(-self.size // step) * step

    @property
    def images(self) -> range:
        """Ids of image codes; code c has the id c."""
        return range(self.image_codes)

    @property
    def texts(self) -> range:
        """Ids of text pieces."""
        return range(self.image_codes, self.image_codes + self.text_pieces)

    @property
    def control_ids(self) -> range:
        """Ids of control tokens, in the order of ``controls``."""
        return range(self.texts.stop, self.size)

    def control(self, name: str) -> int:
        """The id of a control token such as ``[BOI1]``; CogViewError for a name this vocabulary lacks."""
        try:
            return self.texts.stop + self.controls.index(name)
        except ValueError:
            raise CogViewError(
                f"no control token {name!r} in this vocabulary; it has {' '.join(self.controls)}"
            ) from None

    def piece(self, piece: int) -> int:
        """The id of the text tokenizer's piece ``piece`` (0-based)."""
        if not 0 <= piece < self.text_pieces:
            raise CogViewError(
                f"text piece {piece} is outside the vocabulary's {self.text_pieces}: the tokenizer differs"
            )
        return self.texts.start + piece

    def kind(self, token: int) -> Kind:
        """What the id ``token`` is; CogViewError outside the padded vocabulary."""
        if not 0 <= token < self.padded_size:
            raise CogViewError(f"token {token} is outside the vocabulary of {self.padded_size} rows")
        if token < self.texts.start:
            return "image"
        if token < self.texts.stop:
            return "text"
        return "control" if token < self.size else "padding"

    def name(self, token: int) -> str:
        """The name of a control token; CogViewError for an id of another kind."""
        if token not in self.control_ids:
            raise CogViewError(f"token {token} is not a control token")
        return self.controls[token - self.texts.stop]
