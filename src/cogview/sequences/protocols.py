"""What all sequence formats have in common, and what pipelines and the engine ask of them."""

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
RELEASED_LENGTH = 20  # tokens of a caption where no token ends it
F = TypeVar("F")
Side = Annotated[int, Field(ge=1, le=1 << 10)]  # codes of an image


@dataclass(frozen=True)
class Sequence:
    """One sequence of length L.

    ids: (L,) int64, ids of the whole vocabulary; positions: (L,) int64; weights: (L,) float32, the loss
    weight of predicting ``ids[i]`` from what stands before it (``weights[0]`` is 0); prefix: the first tokens
    that see each other both ways, 0 for a causal sequence.
    """

    ids: Ids
    positions: Ids
    weights: NDArray[np.float32]
    prefix: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Prompt:
    """What is read before the first new token, and where the new tokens stand.

    ids, positions: (L,) int64; decode_positions: (n,) int64, of the n tokens to be generated; prefix: the
    first tokens, which see each other both ways; text_length: the first tokens, which receive the attention
    bias; visibility: who sees whom while the prompt is read, where ``prefix`` does not say it.
    """

    ids: Ids
    positions: Ids
    decode_positions: Ids
    prefix: int = 0
    text_length: int = 0
    visibility: Visibility | None = None


class Format(Protocol):
    """What every format has: its id space, the grid of the image, the longest text in tokens."""

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
        """Why a transformer of this configuration cannot read these sequences; None where it can."""


class ImageFormat(Format, Protocol):
    """A format whose last part is an image, generated code by code."""

    def image_prompt(self, text: ArrayLike, context: ArrayLike = (), length: int | None = None) -> Prompt:
        """The prompt for the image's first ``length`` codes (default: all).

        text: (n,) text tokens of the tokenizer (0-based); context: codes of the low-resolution image.
        """


class CaptionFormat(Format, Protocol):
    """A format whose last part is a text about an image; ``end`` is the token after it, if there is one."""

    @property
    def end(self) -> str | None: ...
    @property
    def languages(self) -> Mapping[str, str]:
        """Control token of each language; empty where one prompt serves all."""

    def caption_prompt(self, codes: ArrayLike, language: str | None = None) -> Prompt:
        """The prompt for a caption of an image's codes (rows * columns,)."""


def of_type(form: Format | None, kind: type[F]) -> F | None:
    """The format, if it is of that type; the one place that asks for the type of a format."""
    return form if isinstance(form, kind) else None


def too_small(config: TransformerConfig, rows: int, positions: int) -> str | None:
    """What :meth:`Format.mismatch` says of a transformer with too few rows or positions."""
    if config.vocab_size >= rows and config.max_positions >= positions:
        return None
    return f"has {config.vocab_size} rows and {config.max_positions} positions, too few for family.json"


def caption_length(format: CaptionFormat, length: int | None) -> int:
    """Tokens of a caption at most; CogViewError for a ``length`` that the model does not reach."""
    limit = format.text_limit
    if length is None:
        length = limit if format.end is not None else min(limit, RELEASED_LENGTH)
    if not 1 <= length <= limit:
        raise CogViewError(f"the longest caption is {length} tokens; this model writes 1 to {limit}")
    return length


def check_text(format: CaptionFormat, text: str, pieces: Items[int]) -> None:
    """CogViewError for a text that is empty or has more tokens than the model reads."""
    shown = text if len(text) <= 40 else text[:40] + "…"
    if not pieces:
        raise CogViewError(f"the text {shown!r} is empty; there is nothing to score")
    if len(pieces) > format.text_limit:
        raise CogViewError(
            f"the text {shown!r} has {len(pieces)} tokens and the model reads {format.text_limit}; shorten it"
        )
