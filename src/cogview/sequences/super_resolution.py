"""What the two super-resolution models of CogView2 read (section 3.3), and who sees whom in it.

==========  =====================================================  =================================
model       sequence                                               a code of the large image sees
==========  =====================================================  =================================
direct      text, small image, [MASK] for each large code        windows of the small image and
                                                                   of the large one
iterative   text, large image with some codes [MASK]             the text, a window of the image
==========  =====================================================  =================================

[MASK] is [BOI]. A text fills its places from the right; those before it hold id 0 and are not seen. The large
image's positions begin after all of the base model's, in a table of their own.
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
PAD = 0  # the id in a text's empty places


@dataclass(frozen=True)
class Inputs:
    """A batch for the transformer: ids, positions int64 (b, length), and who sees whom.

    The large image is the last of the sequence.
    """

    ids: Tensor
    positions: Tensor
    visibility: Visibility

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        return Inputs(self.ids.to(device), self.positions.to(device), self.visibility)


class _LargeFormat(Config):
    """What both formats share.

    text_slots: places of the text. grid: rows and columns of the large image. window: rows and columns of
    its local attention. first_position: of its first code; as many as the base model has. begin: the control
    token that stands for [MASK].
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
        """Where layers of their own begin in the sequence; None where there are none."""
        return None

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence: the text, perhaps the small image, and the large one."""
        return (self.decoder_from or self.text_slots) + self.codes

    @property
    def context(self) -> int:
        """Tokens that a code of the large image sees beside its own window: all of the text."""
        return self.text_slots

    def mismatch(self, config: TransformerConfig) -> str | None:
        """Why a transformer cannot read these sequences: it has a row for every token and position."""
        found = (config.max_positions, config.extra_positions, config.decoder_from)
        wanted = (self.first_position, self.codes, self.decoder_from)
        if found == wanted and config.vocab_size >= self.vocabulary.size:
            return None
        return (
            f"has {config.vocab_size} rows, positions, more positions and decoder {found}, "
            f"family.json says {self.vocabulary.size} rows and {wanted}"
        )

    @property
    def mask_id(self) -> int:
        """[MASK]."""
        return self.vocabulary.control(self.begin)

    def large_positions(self) -> Tensor:
        """int64 (codes,), rows of the base's table and then of the extra one."""
        import torch

        return torch.arange(self.first_position, self.first_position + self.codes)

    def pictures(self, codes: ArrayLike | Tensor, count: int) -> Tensor:
        """Codes (b, count) int64, their number and range checked; CogViewError."""
        import torch

        ids = torch.as_tensor(codes).long()
        ids = ids.flatten(1) if ids.dim() > 1 else ids[None]
        if ids.shape[1] != count:
            raise CogViewError(f"a picture has {ids.shape[1]} codes, this model takes {count}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary.image_codes:
            known = self.vocabulary.image_codes
            raise CogViewError(f"an image code is outside the vocabulary's {known}: the tokenizer differs")
        return ids

    def _words(self, texts: Items[ArrayLike]) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`words`, as tensors."""
        import torch

        ids, positions, empty = (torch.from_numpy(part) for part in self.words(texts))
        return ids, positions, empty

    def words(self, texts: Items[ArrayLike]) -> tuple[Ids, Ids, Ids]:
        """Texts of tokens, right-aligned: ids and positions (b, text_slots), and empty places (b,), int64."""
        shape = len(texts), self.text_slots
        ids, positions = np.full(shape, PAD, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        empty = np.full(len(texts), self.text_slots, dtype=np.int64)
        pieces = self.vocabulary.text_pieces
        for row, given in enumerate(texts):
            text = np.asarray(given, dtype=np.int64).ravel()
            if text.size and (text.min() < 0 or text.max() >= pieces):
                raise CogViewError(
                    f"a text piece is outside the vocabulary's {pieces}: the tokenizer differs"
                )
            empty[row] -= text.size
            ids[row, empty[row] :] = text + self.vocabulary.texts.start
            positions[row, empty[row] :] = np.arange(text.size)
        return ids, positions, empty


class DirectFormat(_LargeFormat):
    """Direct super-resolution: all codes of a large image from those of a small one, at once.

    small: rows and columns of the small image, whole parts of ``grid``. across: the window on it.
    image_start: position of [BOI] in the base model; the small codes stand after it.
    """

    kind: Literal["direct_super_resolution"] = "direct_super_resolution"
    text_slots: int = Field(64, ge=1, le=MOST_SLOTS)
    small: Sides
    across: Sides = (5, 5)
    image_start: Position

    @model_validator(mode="after")
    def _whole_times(self) -> Self:
        if any(large % small for large, small in zip(self.grid, self.small, strict=True)):
            raise ValueError(f"grid {self.grid} is no whole number of times small {self.small}")
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
        """For a CogLM with this number of positions."""
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
        """The most tokens of a text; the release leaves one place empty."""
        return self.text_slots - 1

    @property
    def decoder_from(self) -> int:
        """Where the large image begins in the sequence."""
        return self.text_slots + self.small[0] * self.small[1]

    @property
    def context(self) -> int:
        """Codes of the small image that a code of the large one sees."""
        return self.across[0] * self.across[1]

    def visibility(self, empty: Tensor | int = 0) -> CrossResolution:
        """Who sees whom; empty: places before each text."""
        from cogview.transformer.attention import CrossResolution, Window

        windows = Window(*self.window), Window(*self.across)
        return CrossResolution(self.text_slots, self.small, self.grid, *windows, empty)

    def inputs(self, texts: Items[ArrayLike], codes: ArrayLike | Tensor) -> Inputs:
        """texts: tokens of each; codes: (b, small rows * columns). CogViewError for what does not fit."""
        import torch

        longest = max((np.size(text) for text in texts), default=0)
        if longest > self.text_limit:
            limit = f"direct super-resolution takes {self.text_limit}"
            raise CogViewError(f"the text has {longest} tokens and {limit}; shorten it")
        words, places, empty = self._words(texts)
        small = self.pictures(codes, self.small[0] * self.small[1])
        if len(small) != len(words):
            raise CogViewError(f"{len(words)} texts for {len(small)} pictures; give one each")
        large = torch.full((len(words), self.codes), self.mask_id)
        at_small = torch.arange(small.shape[1]) + self.image_start + 1
        at = [places, at_small.expand(len(words), -1), self.large_positions().expand(len(words), -1)]
        return Inputs(torch.cat([words, small, large], 1), torch.cat(at, 1), self.visibility(empty))


class IterativeFormat(_LargeFormat):
    """Iterative super-resolution: the masked codes of a large image from the others and the text.

    Of a text only the first ``text_slots`` tokens are read.
    """

    kind: Literal["iterative_super_resolution"] = "iterative_super_resolution"
    text_slots: int = Field(16, ge=1, le=MOST_SLOTS)

    @property
    def text_limit(self) -> int:
        """How many tokens of a text are read; the rest is left out."""
        return self.text_slots

    @classmethod
    def cogview2(cls) -> IterativeFormat:
        """The release's: 16 tokens of text, 60 x 60 codes, a window of 9 x 5."""
        return cls(vocabulary=Vocabulary.cogview2(), grid=(60, 60), window=(9, 5), first_position=1024)

    @classmethod
    def over(cls, base: CogLMFormat, scale: int, positions: int) -> IterativeFormat:
        """For a CogLM with this number of positions."""
        grid = base.grid[0] * scale, base.grid[1] * scale
        return cls(vocabulary=base.vocabulary, grid=grid, first_position=positions, begin=base.begin)

    def visibility(self, empty: Tensor | int = 0) -> Local:
        """Who sees whom; empty: places before each text."""
        from cogview.transformer.attention import Local, Window

        return Local(self.grid, Window(*self.window), self.text_slots, empty)

    def inputs(
        self, texts: Items[ArrayLike], codes: ArrayLike | Tensor, mask: Tensor | None = None
    ) -> Inputs:
        """texts: tokens of each; codes: (b, rows * columns); mask: bool, the same, what is [MASK] instead."""
        import torch

        words, places, empty = self._words([np.ravel(text)[: self.text_slots] for text in texts])
        large = self.pictures(codes, self.codes)
        if len(large) != len(words):
            raise CogViewError(f"{len(words)} texts for {len(large)} pictures; give one each")
        if mask is not None:
            large = large.masked_fill(mask, self.mask_id)
        at = self.large_positions().expand(len(words), -1)
        return Inputs(torch.cat([words, large], 1), torch.cat([places, at], 1), self.visibility(empty))


def enlarged_config(base: TransformerConfig, form: DirectFormat | IterativeFormat) -> TransformerConfig:
    """The configuration of a model for ``form`` that starts from a CogLM; CogViewError where it cannot."""
    if form.first_position != base.max_positions or form.vocabulary.size > base.vocab_size:
        raise CogViewError(
            f"the base model knows {base.max_positions} positions and {base.vocab_size} tokens; the format "
            f"begins at {form.first_position} and has {form.vocabulary.size}"
        )
    return base.model_copy(update={"extra_positions": form.codes, "decoder_from": form.decoder_from})
