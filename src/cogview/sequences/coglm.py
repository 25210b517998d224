"""CogLM's training sequences and prompts (CogView2, section 3.1).

==============  ====================================  ===========================================
strategy        sequence                              context; what is predicted
==============  ====================================  ===========================================
``drawing``     text [BOI] codes                      text; all codes
``captioning``  codes [BOE] text (end)                codes but for patches; the patches and the text
``editing``     text [BOI] codes                      text, codes but for patches; the patches
==============  ====================================  ===========================================

The text's language selects [BOE] or [BOC]. The first two are the paper's, which combines mask prediction and
captioning in one sequence; the third, used by ``edit``, is our addition. Positions do not depend on the order
of the parts: those of the text start at 0, that of [BOI] is ``image_start``, and the codes follow it.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.sequences.masks import runs
from cogview.sequences.protocols import MOST_SLOTS, Prompt, Sequence, Side, too_small
from cogview.types import Ids
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from cogview.transformer.config import TransformerConfig

BEGIN, ENGLISH, CHINESE = COGVIEW2_CONTROLS
END = "<end_of_text>"


@dataclass(frozen=True)
class CogLMSequence:
    """One training sequence of length L.

    ids, positions: (L,) int64; targets: (L,) int64, the token predicted at each index; weights: (L,) float32,
    its loss weight; order, streams: (L,) int64, the attention pattern
    (:class:`~cogview.transformer.attention.MaskRegions`).
    """

    ids: Ids
    positions: Ids
    targets: Ids
    weights: NDArray[np.float32]
    order: Ids
    streams: Ids

    def __len__(self) -> int:
        return len(self.ids)


class CogLMFormat(Config):
    """CogLM's sequence format.

    text_slots: positions for a text with its separator and end, so ``text_slots - 1`` tokens at most (one
    fewer with an end). grid: rows and columns of codes. image_start: position of [BOI] (default: after the
    text's slots). begin, languages, end: names of the control tokens [BOI], [BOE] and [BOC], and of the one
    that ends a caption (the release has none). text_weight, image_weight: loss weights.
    """

    kind: Literal["coglm"] = "coglm"
    vocabulary: Vocabulary
    text_slots: int = Field(64, ge=2, le=MOST_SLOTS)
    grid: tuple[Side, Side]
    image_start: int = Field(0, ge=0, le=1 << 20)
    begin: str = BEGIN
    languages: dict[str, str] = Field(default_factory=lambda: {"en": ENGLISH, "zh": CHINESE})
    end: str | None = None
    text_weight: float = Field(1.0, ge=0, allow_inf_nan=False)
    image_weight: float = Field(1.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in (self.begin, self.end, *self.languages.values()):
            if name is not None and name not in self.vocabulary.controls:
                raise ValueError(f"the vocabulary has no control token {name}")
        if not self.languages:
            raise ValueError("languages: name at least one")
        if self.image_start and self.image_start < self.text_slots:
            raise ValueError(f"image_start {self.image_start} lies in the text's {self.text_slots} slots")
        if self.text_limit < 1:
            raise ValueError("text_slots leaves no room for a text")
        return self

    @classmethod
    def cogview2(cls) -> CogLMFormat:
        """The release's: up to 111 tokens, [BOI] at position 512, 20 x 20 codes."""
        return cls(vocabulary=Vocabulary.cogview2(), text_slots=112, grid=(20, 20), image_start=512)

    @property
    def codes(self) -> int:
        """Codes of the image."""
        return self.grid[0] * self.grid[1]

    @property
    def text_limit(self) -> int:
        """The maximum number of text tokens."""
        return self.text_slots - 1 - (self.end is not None)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return self.text_slots + self.codes + 1

    @property
    def begin_position(self) -> int:
        """Position of [BOI]."""
        return self.image_start or self.text_slots

    @property
    def max_positions(self) -> int:
        """The number of positions that the transformer needs."""
        return self.begin_position + 1 + self.codes

    # ------------------------------------------------------------------------------------------ parts

    def text_ids(self, text: ArrayLike) -> Ids:
        """Ids of text tokens (n,); raises CogViewError if they are too many or not in the vocabulary."""
        return self.vocabulary.text_ids(text, self.text_limit)

    def image_ids(self, codes: ArrayLike) -> Ids:
        """Ids of an image's codes (rows * columns,); raises CogViewError if number or range is wrong."""
        return self.vocabulary.image_ids(codes, self.codes)

    def mismatch(self, config: TransformerConfig) -> str | None:
        """Why a transformer cannot read these sequences; None if it can."""
        return too_small(config, self.vocabulary.size, self.max_positions)

    @property
    def begin_id(self) -> int:
        """Id of [BOI]."""
        return self.vocabulary.control(self.begin)

    def separator(self, language: str) -> int:
        """Id of [BOE] or [BOC]; raises CogViewError for a language that the model was not trained on."""
        if language not in self.languages:
            raise CogViewError(f"no language {language!r}; this model has {', '.join(self.languages)}")
        return self.vocabulary.control(self.languages[language])

    def code_positions(self, text_length: int = 0) -> Ids:
        """Positions (codes,) of the codes; they do not depend on the length of the text."""
        return np.arange(self.codes, dtype=np.int64) + self.begin_position + 1

    def text_length(self, tokens: int) -> int:
        """The number of leading tokens of a prompt that are its text."""
        return tokens

    # ------------------------------------------------------------------------------------------ training

    def drawing(self, text: ArrayLike, codes: ArrayLike) -> CogLMSequence:
        """Text-to-image: the text is context, [BOI] and the codes are one mask region."""
        return self._image_last(text, codes, np.ones(self.codes, dtype=np.bool_))

    def editing(self, text: ArrayLike, codes: ArrayLike, mask: ArrayLike) -> CogLMSequence:
        """Editing: the text, [BOI] and the unmasked codes are context. mask: bool (codes,)."""
        return self._image_last(text, codes, self.checked_mask(mask))

    def captioning(
        self, text: ArrayLike, codes: ArrayLike, mask: ArrayLike, language: str | None = None
    ) -> CogLMSequence:
        """Mask prediction and captioning; only mask prediction without a text or with ``language`` None."""
        text_ids, image_ids, image_mask = self.text_ids(text), self.image_ids(codes), self.checked_mask(mask)
        if language is not None and text_ids.size:
            end = () if self.end is None else (self.vocabulary.control(self.end),)
            text_ids = np.concatenate([[self.separator(language)], text_ids, end]).astype(np.int64)
        else:
            text_ids = text_ids[:0]
        masked = np.concatenate([image_mask, np.ones(len(text_ids), dtype=np.bool_)])
        positions = np.concatenate([self.code_positions(), np.arange(len(text_ids))])
        # [BOE] begins a new region: it is not predicted from the tokens before it
        return self._sequence(np.concatenate([image_ids, text_ids]), positions, masked, (self.codes,))

    def _image_last(self, text: ArrayLike, codes: ArrayLike, mask: NDArray[np.bool_]) -> CogLMSequence:
        """text [BOI] codes; if the first code is masked, so is [BOI], which then predicts it."""
        text_ids, image_ids = self.text_ids(text), self.image_ids(codes)
        ids = np.concatenate([text_ids, [self.begin_id], image_ids])
        positions = np.concatenate([np.arange(len(text_ids)), [self.begin_position], self.code_positions()])
        masked = np.concatenate([np.zeros(len(text_ids), dtype=np.bool_), mask[:1], mask])
        return self._sequence(ids, positions, masked)

    def _sequence(
        self, ids: Ids, positions: Ids, masked: NDArray[np.bool_], starts: tuple[int, ...] = ()
    ) -> CogLMSequence:
        """Loss on all but the first token of every region (equation 2); ``starts`` begin new regions."""
        predicted = np.zeros(len(ids), dtype=np.bool_)
        for first, end in runs(masked):
            predicted[first + 1 : end] = True
        predicted[list(starts) if starts and starts[0] < len(ids) else []] = False
        image = ids < self.vocabulary.image_codes
        weights = np.where(image, self.image_weight, self.text_weight) * predicted
        return CogLMSequence(
            ids,
            positions.astype(np.int64),
            np.append(ids[1:], ids[-1]),
            np.append(weights[1:], 0).astype(np.float32),
            np.where(masked, masked.cumsum(), 0),
            np.zeros(len(ids), dtype=np.int64),
        )

    def checked_mask(self, mask: ArrayLike) -> NDArray[np.bool_]:
        """The mask as bool (codes,); raises CogViewError for another size."""
        flat = np.asarray(mask, dtype=np.bool_).ravel()
        if flat.size != self.codes:
            raise CogViewError(f"a mask of {flat.size} codes does not fit the image's {self.codes}")
        return flat

    # ------------------------------------------------------------------------------------------ prompts

    def prompt(self, text: ArrayLike = ()) -> Sequence:
        """The tokens before a new image's first code: the text, with bidirectional attention, and [BOI]."""
        text_ids = self.text_ids(text)
        ids = np.append(text_ids, self.begin_id)
        positions = np.append(np.arange(len(text_ids)), self.begin_position)
        return Sequence(ids, positions, np.zeros(len(ids), dtype=np.float32), len(text_ids))

    def image_prompt(self, text: ArrayLike, context: ArrayLike = (), length: int | None = None) -> Prompt:
        """The prompt for the first ``length`` codes of a new image; ``context`` is not used."""
        prompt, tokens = self.prompt(text), np.size(text)
        return Prompt(prompt.ids, prompt.positions, self.code_positions()[:length], prompt.prefix, tokens)

    def caption_prompt(self, codes: ArrayLike, language: str | None = None) -> Prompt:
        """The prompt for a caption: the image, with bidirectional attention, and [BOE] (default) or [BOC]."""
        ids = np.append(self.image_ids(codes), self.separator(language or "en"))
        positions = np.append(self.code_positions(), 0)
        return Prompt(ids, positions, self.caption_positions(), self.codes)

    def caption_positions(self) -> Ids:
        """Positions of a caption's tokens and its end, which follow [BOE]."""
        return np.arange(1, self.text_slots, dtype=np.int64)


def collate(sequences: Items[CogLMSequence], pad_id: int = 0, multiple: int = 1) -> dict[str, Tensor]:
    """Collate sequences into a batch, right-padded to the longest (rounded up to a ``multiple``).

    Returns ``inputs``, ``positions``, ``targets``, ``order`` and ``streams`` (b, L) int64, ``weights``
    (b, L) float32. Padding is not attended to.
    """
    import torch

    length = -(-max(map(len, sequences)) // multiple) * multiple
    fills = {"ids": pad_id, "positions": 0, "targets": pad_id, "weights": 0, "order": -1, "streams": 0}
    batch = {}
    for name, fill in fills.items():
        rows = [getattr(sequence, name) for sequence in sequences]
        padded = np.full((len(rows), length), fill, dtype=rows[0].dtype)
        for row, values in enumerate(rows):
            padded[row, : len(values)] = values
        batch["inputs" if name == "ids" else name] = torch.from_numpy(padded)
    return batch
