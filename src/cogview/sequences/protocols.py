"""The data types and protocols of sequence formats, as pipelines and the engine use them."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from cogview.errors import CogViewError
from cogview.types import Grid, Ids
from cogview.vocabulary import Vocabulary

if TYPE_CHECKING:
    from cogview.transformer.attention import Visibility
    from cogview.transformer.config import TransformerConfig

MOST_SLOTS = 1 << 16
RELEASED_LENGTH = 20  # tokens of a caption without an end token
F = TypeVar("F")
Side = Annotated[int, Field(ge=1, le=1 << 10)]  # codes of an image


@dataclass(frozen=True)
class Sequence:
    """One sequence of length L.

    ids: (L,) int64, ids of the whole vocabulary; positions: (L,) int64; weights: (L,) float32, the loss
    weight of predicting ``ids[i]`` from the tokens before it (``weights[0]`` is 0); prefix: number of leading
    tokens with bidirectional attention, 0 for a causal sequence.
    """

    ids: Ids
    positions: Ids
    weights: NDArray[np.float32]
    prefix: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Prompt:
    """The tokens that are prefilled before the first new token, and the positions of the new tokens.

    ids, positions: (L,) int64; decode_positions: (n,) int64, of the n tokens to be generated; prefix: number
    of leading tokens with bidirectional attention; text_length: number of leading tokens that receive the
    text attention bias; visibility: attention pattern of the prefill, if ``prefix`` does not describe it.
    """

    ids: Ids
    positions: Ids
    decode_positions: Ids
    prefix: int = 0
    text_length: int = 0
    visibility: Visibility | None = None


class Format(Protocol):
    """The interface of every format: its vocabulary, the grid of the image, the maximum text length."""

    @property
    def kind(self) -> str: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def grid(self) -> Grid: ...
    @property
    def codes(self) -> int: ...
    @property
    def text_limit(self) -> int: ...
    def mismatch(self, config: TransformerConfig) -> str | None:
        """Why a transformer of this configuration cannot read these sequences; None if it can."""


class ImageFormat(Format, Protocol):
    """A format whose last part is an image that is generated code by code."""

    def image_prompt(self, text: ArrayLike, context: ArrayLike = (), length: int | None = None) -> Prompt:
        """The prompt for the image's first ``length`` codes (default: all).

        text: (n,) tokens from the text tokenizer (0-based); context: codes of the low-resolution image.
        """


class CaptionFormat(Format, Protocol):
    """A format whose last part is a caption of an image; ``end`` is the token that ends it, if any."""

    @property
    def end(self) -> str | None: ...
    @property
    def languages(self) -> Mapping[str, str]:
        """Control token of each language; empty if one prompt serves all languages."""

    def caption_prompt(self, codes: ArrayLike, language: str | None = None) -> Prompt:
        """The prompt for a caption of an image, given its codes (rows * columns,)."""


def of_type(format: Format | None, kind: type[F]) -> F | None:
    """The format if it is of type ``kind``, else None; the only place that checks the type of a format."""
    return format if isinstance(format, kind) else None


def too_small(config: TransformerConfig, rows: int, positions: int) -> str | None:
    """The result of :meth:`Format.mismatch` for a transformer with too few rows or positions, else None."""
    if config.vocab_size >= rows and config.max_positions >= positions:
        return None
    return f"has {config.vocab_size} rows and {config.max_positions} positions, too few for family.json"


def caption_length(format: CaptionFormat, length: int | None) -> int:
    """The maximum number of tokens of a caption; raises CogViewError for a ``length`` beyond the model's."""
    limit = format.text_limit
    if length is None:
        length = limit if format.end is not None else min(limit, RELEASED_LENGTH)
    if not 1 <= length <= limit:
        raise CogViewError(f"the longest caption is {length} tokens; this model writes 1 to {limit}")
    return length


def check_text(format: CaptionFormat, text: str, tokens: Items[int]) -> None:
    """Raise CogViewError if a text is empty or has more tokens than the model reads."""
    shown = text if len(text) <= 40 else text[:40] + "…"
    if not tokens:
        raise CogViewError(f"the text {shown!r} is empty; there is nothing to score")
    if len(tokens) > format.text_limit:
        raise CogViewError(
            f"the text {shown!r} has {len(tokens)} tokens and the model reads {format.text_limit}; shorten it"
        )
