"""CogView's sequence formats (sections 2.1, 3.1 and 3.2).

===================  =====================================================================================
``text_to_image``    [ROI1] text [BASE] [BOI1] codes [EOI1]
``image_to_text``    [BASE] [BOI1] codes [EOI1] [ROI1] text (end)
``super_resolution`` [ROI1] text [BASE] [BOI1] small codes [EOI1] [ROI2] [POS0] [BASE] [BOI2] codes [EOI2]
===================  =====================================================================================

Positions are either each token's index, as in CogView, or *fixed*: a number of slots is reserved for the
text, and the image's tokens come after them, at positions that do not depend on the length of the text or the
order of the parts. In both, positions restart at [ROI2], so that an image of 32 x 32 codes is generated with
positions that the base model knows.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from cogview.config import Config
from cogview.sequences.protocols import MOST_SLOTS, Prompt, Sequence, Side, too_small
from cogview.types import Ids
from cogview.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from cogview.transformer.config import TransformerConfig

Recount = Literal["inference", "finetune"]


def recounted_positions(ids: ArrayLike, restart: int, rule: Recount, limit: int | None = None) -> Ids:
    """Positions (L,) of ``ids`` (L,), restarting at the first token ``restart`` ([ROI2]).

    The released code has two rules, which differ only at that token: in finetuning its position is 0, at
    inference it keeps its index and the token after it has position 1. ``limit`` clamps to ``limit - 1``.
    """
    tokens = np.asarray(ids)
    positions = np.arange(len(tokens), dtype=np.int64)
    restarts = np.flatnonzero(tokens == restart)
    if restarts.size:
        first = int(restarts[0])
        positions[first + (rule == "inference") :] -= first
    return positions if limit is None else np.minimum(positions, limit - 1)


@dataclass(frozen=True)
class _Part:
    """A run of tokens, its first position in the fixed layout, and each token's offset from it."""

    ids: Ids
    start: int
    offsets: Ids | None = None

    @property
    def positions(self) -> Ids:
        """Positions in the fixed layout."""
        return self.start + (np.arange(len(self.ids)) if self.offsets is None else self.offsets)


class SequenceFormat(Config):
    """The sequence format of a task.

    text_slots: positions for [ROI1] and the text (and the end of a caption), so ``text_slots - 1`` tokens at
    most. grid: rows and columns of codes of the generated or captioned image; context_grid: of the
    low-resolution image that super-resolution starts from. image_positions: ``index`` (CogView) or ``fixed``.
    size: the control token before every image. end: the control token after a caption (the release has none).

    text_weight and image_weight: loss weights of text and control tokens, and of codes (paper: equal);
    context_weight: a further factor on the tokens before [ROI2]. weighting: by the predicted token
    (``target``) or, as ``released``, by the token before it, so that the first code counts as text and [EOI1]
    as image. visibility ``prefix``: the condition has bidirectional attention and no loss. recount: see
    :func:`recounted_positions`. context_positions ``aligned`` (with fixed positions): a low-resolution code
    has the position of the first high-resolution code that it becomes, so that a model that knows the layout
    of codes knows which codes of the two images correspond. In the paper the low-resolution codes are
    numbered separately (``own``).
    """

    kind: Literal["text_to_image", "image_to_text", "super_resolution"] = "text_to_image"
    vocabulary: Vocabulary
    text_slots: int = Field(64, ge=1, le=MOST_SLOTS)
    grid: tuple[Side, Side]
    context_grid: tuple[Side, Side] | None = None
    image_positions: Literal["index", "fixed"] = "fixed"
    size: str = "[BASE]"
    end: str | None = None
    text_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    image_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    context_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    context_positions: Literal["own", "aligned"] = "own"
    weighting: Literal["target", "released"] = "target"
    visibility: Literal["causal", "prefix"] = "causal"
    recount: Recount = "finetune"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.context_grid is None) != (self.kind != "super_resolution"):
            raise ValueError("context_grid belongs to super_resolution, which needs it")
        if self.context_positions == "aligned":
            if self.context_grid is None or self.image_positions != "fixed":
                raise ValueError("context_positions aligned is for super_resolution with fixed positions")
            if any(side % small for side, small in zip(self.grid, self.context_grid, strict=True)):
                raise ValueError("context_positions aligned needs a grid that is a multiple of context_grid")
        if self.end is not None and self.kind != "image_to_text":
            raise ValueError("end belongs to image_to_text")
        if self.text_limit < 1 and self.kind == "image_to_text":
            raise ValueError("text_slots leaves no room for a caption")
        second = ("[ROI2]", "[POS0]", "[BOI2]", "[EOI2]") if self.context_grid else ()
        for name in (self.size, self.end, "[ROI1]", "[BOI1]", "[EOI1]", *second):
            if name is not None and name not in self.vocabulary.controls:
                raise ValueError(f"the vocabulary has no control token {name}")
        return self

    @classmethod
    def cogview(cls) -> SequenceFormat:
        """CogView's: up to 61 tokens and 32 x 32 codes in 1089 positions."""
        return cls(vocabulary=Vocabulary.cogview(), text_slots=62, grid=(32, 32), image_positions="index")

    @property
    def codes(self) -> int:
        """Codes of the image."""
        return self.grid[0] * self.grid[1]

    @property
    def context_codes(self) -> int:
        """Codes of the low-resolution image of super-resolution, else 0."""
        return self.context_grid[0] * self.context_grid[1] if self.context_grid else 0

    @property
    def text_limit(self) -> int:
        """The maximum number of text tokens."""
        return self.text_slots - 1 - (self.end is not None)

    @property
    def max_length(self) -> int:
        """Tokens of the longest training sequence."""
        return self.text_slots + self.codes + 3 + (self.context_codes + 5 if self.context_grid else 0)

    @property
    def max_positions(self) -> int:
        """The number of positions that the transformer needs: one more than the largest in use."""
        fixed = self.text_slots + 3 + max(self.codes, self.context_codes)
        if self.image_positions == "fixed" or self.kind != "super_resolution":
            return fixed
        return max(self.text_slots + self.context_codes + 3 + (self.recount == "inference"), self.codes + 5)

    def training(self, text: ArrayLike, codes: ArrayLike, context: ArrayLike = ()) -> Sequence:
        """A training sequence with its loss weights.

        Args:
            text: (n,) tokens from the text tokenizer (0-based).
            codes: (rows * columns,) of the image, row by row.
            context: codes of the low-resolution image, for super-resolution.

        Raises CogViewError if the text is too long or the codes do not fit the grid.
        """
        ids, positions, before = self._join(self._parts(text, codes, context))
        prefix = before if self.visibility == "prefix" else 0
        return Sequence(ids, positions, self._weights(ids, before, prefix), prefix)

    def prompt(self, text: ArrayLike = (), codes: ArrayLike = ()) -> Sequence:
        """The tokens before the first one to be generated; all weights are 0.

        Args:
            text: (n,) text tokens; the prompt of ``text_to_image`` and ``super_resolution``.
            codes: codes of the input image of ``image_to_text`` or ``super_resolution``.
        """
        captions = self.kind == "image_to_text"
        parts = self._parts((), codes) if captions else self._parts(text, np.zeros(self.codes), codes)
        ids, positions, before = self._join(parts)
        end = before + (1 if captions else 2)
        prefix = before if self.visibility == "prefix" else 0
        return Sequence(ids[:end], positions[:end], np.zeros(end, dtype=np.float32), prefix)

    def image_prompt(self, text: ArrayLike, context: ArrayLike = (), length: int | None = None) -> Prompt:
        """The prompt for the first ``length`` codes; only without context does its text receive the bias."""
        prompt, tokens = self.prompt(text, context), np.size(text)
        biased = 0 if np.size(context) else self.text_length(tokens)
        positions = self.code_positions(tokens)[:length]
        return Prompt(prompt.ids, prompt.positions, positions, prompt.prefix, biased)

    def caption_prompt(self, codes: ArrayLike, language: str | None = None) -> Prompt:
        """The prompt for a caption in any language."""
        prompt = self.prompt(codes=codes)
        return Prompt(prompt.ids, prompt.positions, self.text_positions(), prompt.prefix)

    @property
    def languages(self) -> dict[str, str]:
        """Empty: there are no control tokens for languages."""
        return {}

    def text_length(self, tokens: int) -> int:
        """The number of leading tokens of a prompt that are its text, including [ROI1]."""
        return tokens + 1 if self.kind != "image_to_text" else 0

    def mismatch(self, config: TransformerConfig) -> str | None:
        """Why a transformer cannot read these sequences; None if it can."""
        return too_small(config, self.vocabulary.size, self.max_positions)

    def code_positions(self, text_length: int = 0) -> Ids:
        """Positions (codes,) of the image's codes if the text has ``text_length`` tokens."""
        blanks = (np.zeros(n) for n in (text_length, self.codes, self.context_codes))
        _, positions, before = self._join(self._parts(*blanks))
        first = 2 if self.kind == "image_to_text" else before + 2
        return positions[first : first + self.codes]

    def text_positions(self) -> Ids:
        """Positions (text_slots - 1,) of the text tokens, followed by that of the end of a caption."""
        after_image = self.kind == "image_to_text" and self.image_positions == "index"
        start = self.codes + 4 if after_image else 1
        return np.arange(start, start + self.text_slots - 1, dtype=np.int64)

    def _text(self, text: ArrayLike) -> Ids:
        """Ids of [ROI1] and the text tokens."""
        ids = self.vocabulary.text_ids(text, self.text_limit)
        return np.concatenate([[self.vocabulary.control("[ROI1]")], ids])

    def _wrap(self, codes: ArrayLike, expected: int, index: int = 1) -> _Part:
        """[size] [BOIi] codes [EOIi]; in the fixed layout they start after the text's slots."""
        start, begin, end = map(self.vocabulary.control, (self.size, f"[BOI{index}]", f"[EOI{index}]"))
        return _Part(
            np.concatenate([[start, begin], self.vocabulary.image_ids(codes, expected), [end]]),
            self.text_slots,
        )

    def _context_offsets(self) -> Ids | None:
        """Offsets of [size] [BOI1] codes [EOI1] if the low-resolution image is aligned with the other."""
        if self.context_positions == "own" or self.context_grid is None:
            return None
        cells = np.arange(self.codes).reshape(self.grid)
        steps = [side // small for side, small in zip(self.grid, self.context_grid, strict=True)]
        return np.concatenate([[0, 1], 2 + cells[:: steps[0], :: steps[1]].ravel(), [2 + self.codes]])

    def _parts(self, text: ArrayLike, codes: ArrayLike, context: ArrayLike = ()) -> list[_Part]:
        """The parts of a sequence in order; the last one is what a model generates."""
        control, text_ids = self.vocabulary.control, self._text(text)
        if self.kind == "text_to_image":
            return [_Part(text_ids, 0), self._wrap(codes, self.codes)]
        if self.kind == "image_to_text":
            end = () if self.end is None else (control(self.end),)
            return [self._wrap(codes, self.codes), _Part(np.append(text_ids, end).astype(np.int64), 0)]
        return [
            _Part(text_ids, 0),
            replace(self._wrap(context, self.context_codes), offsets=self._context_offsets()),
            _Part(np.array([control("[ROI2]"), control("[POS0]")]), 0),
            self._wrap(codes, self.codes, index=2),
        ]

    def _join(self, parts: Items[_Part]) -> tuple[Ids, Ids, int]:
        """Ids and positions of the full sequence, and the number of tokens before the last part."""
        ids, before = np.concatenate([part.ids for part in parts]), sum(len(part.ids) for part in parts[:-1])
        if self.image_positions == "fixed":
            return ids, np.concatenate([part.positions for part in parts]), before
        if self.kind == "super_resolution":
            return ids, recounted_positions(ids, self.vocabulary.control("[ROI2]"), self.recount), before
        return ids, np.arange(len(ids), dtype=np.int64), before

    def _weights(self, ids: Ids, before: int, prefix: int) -> NDArray[np.float32]:
        weighted_by = ids if self.weighting == "target" else np.concatenate([ids[:1], ids[:-1]])
        image = weighted_by < self.vocabulary.image_codes
        weights = np.where(image, self.image_weight, self.text_weight).astype(np.float32)
        if self.kind == "super_resolution":
            weights[: before - 2] *= self.context_weight
        weights[: max(1, prefix)] = 0
        return weights


def collate(sequences: Items[Sequence], pad_id: int) -> dict[str, Tensor]:
    """Collate sequences into a batch, right-padded to the longest.

    Returns ``ids`` (b, L) int64 filled with ``pad_id``, ``positions`` (b, L) int64 and ``weights`` (b, L)
    float32 filled with 0, ``prefix`` (b,) int64.
    """
    import torch

    shape = (len(sequences), max(map(len, sequences)))
    ids, positions = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence.ids
        positions[row, : len(sequence)] = sequence.positions
        weights[row, : len(sequence)] = sequence.weights
    prefix = torch.tensor([sequence.prefix for sequence in sequences], dtype=torch.int64)
    arrays = {"ids": ids, "positions": positions, "weights": weights}
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"prefix": prefix}
