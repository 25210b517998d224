"""The sequences of CogView2's two super-resolution models (section 3.3) and their attention patterns.

==========  =====================================================  =================================
model       sequence                                               a code of the large image sees
==========  =====================================================  =================================
direct      text, small image, [MASK] for each large code        windows of the small image and
                                                                   of the large one
iterative   text, large image with some codes [MASK]             the text, a window of the image
==========  =====================================================  =================================

[MASK] is [BOI]. A text is left-padded to its slots with id 0, which is not attended to. The large image's
positions follow those of the base model, in an embedding table of their own.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, model_validator

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.sequences.coglm import BEGIN, CogLMFormat
from cogview.sequences.protocols import MOST_SLOTS, Side
from cogview.types import Ids
from cogview.vocabulary import Vocabulary

if TYPE_CHECKING:  # a family's configuration is read without PyTorch
    import torch
    from torch import Tensor

    from cogview.transformer.attention import CrossResolution, Local, Visibility
    from cogview.transformer.config import TransformerConfig

Sides = tuple[Side, Side]
Position = Annotated[int, Field(ge=1, le=1 << 24)]
PAD = 0  # the id of padding before a text


@dataclass(frozen=True)
class Inputs:
    """A batch for the transformer: ids and positions, int64 (b, length), and the attention pattern.

    The large image is the last part of the sequence.
    """

    ids: Tensor
    positions: Tensor
    visibility: Visibility

    def to(self, device: torch.device) -> Inputs:
        """The batch on another device."""
        return Inputs(self.ids.to(device), self.positions.to(device), self.visibility)


class _LargeFormat(Config):
    """Base of both formats.

    text_slots: slots of the text. grid: rows and columns of the large image. window: rows and columns of its
    local attention. first_position: position of its first code, which is the number of positions of the base
    model. begin: the control token used as [MASK].
    """

    vocabulary: Vocabulary
    text_slots: int = Field(ge=1, le=MOST_SLOTS)
    grid: Sides
    window: Sides = (9, 9)
    first_position: Position
    begin: str = BEGIN

    @model_validator(mode="after")
    def _knows_the_mask(self) -> Self:
        if self.begin not in self.vocabulary.controls:
            raise ValueError(f"the vocabulary has no control token {self.begin}")
        return self

    @property
    def codes(self) -> int:
        """Codes of the large image."""
        return self.grid[0] * self.grid[1]

    @property
    def decoder_from(self) -> int | None:
        """The first token with projections of its own (the decoder); None if there is none."""
        return None

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence: the text, the small image if any, and the large image."""
        return (self.decoder_from or self.text_slots) + self.codes

    @property
    def context(self) -> int:
        """Tokens that a code of the large image sees besides its window: the whole text."""
        return self.text_slots

    def mismatch(self, config: TransformerConfig) -> str | None:
        """Why a transformer cannot read these sequences; None if it can."""
        actual = (config.max_positions, config.extra_positions, config.decoder_from)
        expected = (self.first_position, self.codes, self.decoder_from)
        if actual == expected and config.vocab_size >= self.vocabulary.size:
            return None
        return (
            f"has {config.vocab_size} rows, positions, extra positions and decoder {actual}, "
            f"family.json says {self.vocabulary.size} rows and {expected}"
        )

    @property
    def mask_id(self) -> int:
        """Id of [MASK]."""
        return self.vocabulary.control(self.begin)

    def large_positions(self) -> Tensor:
        """Positions of the large image, int64 (codes,): rows of the extra embedding table."""
        import torch

        return torch.arange(self.first_position, self.first_position + self.codes)

    def image_ids(self, codes: ArrayLike | Tensor, count: int) -> Tensor:
        """Codes as ids (b, count) int64; raises CogViewError if their number or range is wrong."""
        import torch

        ids = torch.as_tensor(codes).long()
        ids = ids.flatten(1) if ids.dim() > 1 else ids[None]
        if ids.shape[1] != count:
            raise CogViewError(f"an image has {ids.shape[1]} codes, this model takes {count}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary.image_codes:
            known = self.vocabulary.image_codes
            raise CogViewError(f"an image code is outside the vocabulary's {known}: the tokenizer differs")
        return ids

    def _text_tensors(self, texts: Items[ArrayLike]) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`padded_texts` as tensors."""
        import torch

        ids, positions, padding = (torch.from_numpy(part) for part in self.padded_texts(texts))
        return ids, positions, padding

    def padded_texts(self, texts: Items[ArrayLike]) -> tuple[Ids, Ids, Ids]:
        """Left-padded texts: ids and positions (b, text_slots), lengths of the padding (b,), all int64."""
        shape = len(texts), self.text_slots
        ids, positions = np.full(shape, PAD, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        padding = np.full(len(texts), self.text_slots, dtype=np.int64)
        known = self.vocabulary.text_pieces
        for row, tokens in enumerate(texts):
            text = np.asarray(tokens, dtype=np.int64).ravel()
            if text.size and (text.min() < 0 or text.max() >= known):
                raise CogViewError(f"a text token is outside the vocabulary's {known}: the tokenizer differs")
            padding[row] -= text.size
            ids[row, padding[row] :] = text + self.vocabulary.texts.start
            positions[row, padding[row] :] = np.arange(text.size)
        return ids, positions, padding


class DirectFormat(_LargeFormat):
    """Direct super-resolution: all codes of the large image from those of the small one in one forward pass.

    small: rows and columns of the small image, divisors of those of ``grid``. across: the window on it.
    image_start: position of [BOI] in the base model; the positions of the small codes follow it.
    """

    kind: Literal["direct_super_resolution"] = "direct_super_resolution"
    text_slots: int = Field(64, ge=1, le=MOST_SLOTS)
    small: Sides
    across: Sides = (5, 5)
    image_start: Position

    @model_validator(mode="after")
    def _whole_times(self) -> Self:
        if any(large % small for large, small in zip(self.grid, self.small, strict=True)):
            raise ValueError(f"grid {self.grid} is not a multiple of small {self.small}")
        return self

    @classmethod
    def cogview2(cls) -> DirectFormat:
        """The release's: 60 x 60 codes from 20 x 20, windows of 9 x 5 and 5 x 5."""
        return cls(
            vocabulary=Vocabulary.cogview2(),
            text_slots=96,
            small=(20, 20),
            grid=(60, 60),
            window=(9, 5),
            image_start=512,
            first_position=1024,
        )

    @classmethod
    def over(cls, base: CogLMFormat, scale: int, positions: int) -> DirectFormat:
        """The format for a CogLM with ``positions`` positions."""
        return cls(
            vocabulary=base.vocabulary,
            text_slots=base.text_slots,
            small=base.grid,
            grid=(base.grid[0] * scale, base.grid[1] * scale),
            image_start=base.begin_position,
            first_position=positions,
            begin=base.begin,
        )

    @property
    def text_limit(self) -> int:
        """The maximum number of text tokens; the release leaves one slot empty."""
        return self.text_slots - 1

    @property
    def decoder_from(self) -> int:
        """The index of the large image's first code in the sequence."""
        return self.text_slots + self.small[0] * self.small[1]

    @property
    def context(self) -> int:
        """Codes of the small image that a code of the large one sees."""
        return self.across[0] * self.across[1]

    def visibility(self, padding: Tensor | int = 0) -> CrossResolution:
        """The attention pattern; padding: its length before each text."""
        from cogview.transformer.attention import CrossResolution, Window

        windows = Window(*self.window), Window(*self.across)
        return CrossResolution(self.text_slots, self.small, self.grid, *windows, padding)

    def inputs(self, texts: Items[ArrayLike], codes: ArrayLike | Tensor) -> Inputs:
        """The batch for texts (text tokens of each) and codes (b, small rows * columns).

        Raises CogViewError if a text is too long or the codes do not fit.
        """
        import torch

        longest = max((np.size(text) for text in texts), default=0)
        if longest > self.text_limit:
            limit = f"direct super-resolution takes {self.text_limit}"
            raise CogViewError(f"the text has {longest} tokens and {limit}; shorten it")
        text_ids, text_positions, padding = self._text_tensors(texts)
        small, batch = self.image_ids(codes, self.small[0] * self.small[1]), len(text_ids)
        if len(small) != batch:
            raise CogViewError(f"{batch} texts for {len(small)} images; give one each")
        large = torch.full((batch, self.codes), self.mask_id)
        small_positions = torch.arange(small.shape[1]) + self.image_start + 1
        positions = [
            text_positions,
            small_positions.expand(batch, -1),
            self.large_positions().expand(batch, -1),
        ]
        ids = torch.cat([text_ids, small, large], 1)
        return Inputs(ids, torch.cat(positions, 1), self.visibility(padding))


class IterativeFormat(_LargeFormat):
    """Iterative super-resolution: the masked codes of a large image from its other codes and the text.

    Texts are truncated to ``text_slots`` tokens.
    """

    kind: Literal["iterative_super_resolution"] = "iterative_super_resolution"
    text_slots: int = Field(16, ge=1, le=MOST_SLOTS)

    @property
    def text_limit(self) -> int:
        """The number of text tokens that are read; longer texts are truncated."""
        return self.text_slots

    @classmethod
    def cogview2(cls) -> IterativeFormat:
        """The release's: 16 tokens of text, 60 x 60 codes, a window of 9 x 5."""
        return cls(vocabulary=Vocabulary.cogview2(), grid=(60, 60), window=(9, 5), first_position=1024)

    @classmethod
    def over(cls, base: CogLMFormat, scale: int, positions: int) -> IterativeFormat:
        """The format for a CogLM with ``positions`` positions."""
        grid = base.grid[0] * scale, base.grid[1] * scale
        return cls(vocabulary=base.vocabulary, grid=grid, first_position=positions, begin=base.begin)

    def visibility(self, padding: Tensor | int = 0) -> Local:
        """The attention pattern; padding: its length before each text."""
        from cogview.transformer.attention import Local, Window

        return Local(self.grid, Window(*self.window), self.text_slots, padding)

    def inputs(
        self, texts: Items[ArrayLike], codes: ArrayLike | Tensor, mask: Tensor | None = None
    ) -> Inputs:
        """The batch for texts (text tokens of each) and codes (b, rows * columns).

        mask: bool (b, rows * columns), True where [MASK] replaces the code.
        """
        import torch

        truncated = [np.ravel(text)[: self.text_slots] for text in texts]
        text_ids, text_positions, padding = self._text_tensors(truncated)
        large, batch = self.image_ids(codes, self.codes), len(text_ids)
        if len(large) != batch:
            raise CogViewError(f"{batch} texts for {len(large)} images; give one each")
        if mask is not None:
            large = large.masked_fill(mask, self.mask_id)
        positions = torch.cat([text_positions, self.large_positions().expand(batch, -1)], 1)
        return Inputs(torch.cat([text_ids, large], 1), positions, self.visibility(padding))


def upscaler_config(base: TransformerConfig, format: DirectFormat | IterativeFormat) -> TransformerConfig:
    """The configuration of a super-resolution model initialized from a CogLM; raises CogViewError if the
    format does not fit the base model."""
    if format.first_position != base.max_positions or format.vocabulary.size > base.vocab_size:
        raise CogViewError(
            f"the base model knows {base.max_positions} positions and {base.vocab_size} tokens; the format "
            f"begins at {format.first_position} and has {format.vocabulary.size}"
        )
    return base.model_copy(update={"extra_positions": format.codes, "decoder_from": format.decoder_from})
