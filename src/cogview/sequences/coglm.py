"""The sequences that CogLM learns from and is asked with (CogView2, section 3.1).

==============  ====================================  ===========================================
strategy        sequence                              context; what is predicted
==============  ====================================  ===========================================
``drawing``     text [BOI] codes                      text; all codes
``captioning``  codes [BOE] text (end)                codes but for patches; the patches and the text
``editing``     text [BOI] codes                      text, codes but for patches; the patches
==============  ====================================  ===========================================

[BOE] or [BOC] by the text's language. The first two are the paper's, which combines mask prediction and
captioning in one sequence; the third, what ``edit`` asks for, is ours. Positions do not depend on the order
of the parts: a text counts from 0, [BOI] stands at ``image_start`` and the codes after it.
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

    ids, positions: (L,) int64; targets: (L,) int64, what is predicted at each place; weights: (L,) float32,
    how much that counts; order, streams: (L,) int64, who sees whom
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
    """How CogLM's sequences are built.

    text_slots: places of a text with its separator and end, so ``text_slots - 1`` tokens at most (one fewer
    with an end). grid: rows and columns of codes. image_start: position of [BOI] (default: after the text's
    slots). begin, languages, end: names of the control tokens [BOI], [BOE] and [BOC], and of what ends a
    caption (the release has none). text_weight, image_weight: of the loss.
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
        """The most tokens a text may have."""
        return self.text_slots - 1 - (self.end is not None)

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence."""
        return self.text_slots + self.codes + 1

    @property
    def begin_position(self) -> int:
        """Where [BOI] stands."""
        return self.image_start or self.text_slots

    @property
    def max_positions(self) -> int:
        """Positions that the transformer must know."""
        return self.begin_position + 1 + self.codes

    # ------------------------------------------------------------------------------------------ parts

    def text_ids(self, text: ArrayLike) -> Ids:
        """Ids of text tokens (n,); CogViewError where they are too many or not this vocabulary's."""
        return self.vocabulary.text_ids(text, self.text_limit)

    def image_ids(self, codes: ArrayLike) -> Ids:
        """The codes of an image (rows * columns,), their number and range checked."""
        return self.vocabulary.image_ids(codes, self.codes)

    def mismatch(self, config: TransformerConfig) -> str | None:
        """Why a transformer cannot read these sequences; None where it can."""
        return too_small(config, self.vocabulary.size, self.max_positions)

    @property
    def begin_id(self) -> int:
        """[BOI]."""
        return self.vocabulary.control(self.begin)

    def separator(self, language: str) -> int:
        """[BOE] or [BOC]; CogViewError for a language the model was not taught."""
        if language not in self.languages:
            raise CogViewError(f"no language {language!r}; this model has {', '.join(self.languages)}")
        return self.vocabulary.control(self.languages[language])

    def code_positions(self, text_length: int = 0) -> Ids:
        """Positions (codes,) of the codes, whatever the length of the text."""
        return np.arange(self.codes, dtype=np.int64) + self.begin_position + 1

    def text_length(self, tokens: int) -> int:
        """How many tokens at the start of a prompt are its text."""
        return tokens

    # ------------------------------------------------------------------------------------------ training

    def drawing(self, text: ArrayLike, codes: ArrayLike) -> CogLMSequence:
        """Text-to-image: the text is context, [BOI] and the codes are one region."""
        return self._image_last(text, codes, np.ones(self.codes, dtype=np.bool_))

    def editing(self, text: ArrayLike, codes: ArrayLike, mask: ArrayLike) -> CogLMSequence:
        """Text, [BOI] and what is not masked are context; mask: bool, one a code."""
        return self._image_last(text, codes, self.checked_mask(mask))

    def captioning(
        self, text: ArrayLike, codes: ArrayLike, mask: ArrayLike, language: str | None = None
    ) -> CogLMSequence:
        """Mask prediction and captioning; without a text (or ``language`` None) the image alone."""
        words, picture, hidden = self.text_ids(text), self.image_ids(codes), self.checked_mask(mask)
        if language is not None and words.size:
            end = () if self.end is None else (self.vocabulary.control(self.end),)
            words = np.concatenate([[self.separator(language)], words, end]).astype(np.int64)
        else:
            words = words[:0]
        masked = np.concatenate([hidden, np.ones(len(words), dtype=np.bool_)])
        positions = np.concatenate([self.code_positions(), np.arange(len(words))])
        # [BOE] begins a region of its own: what comes before it does not predict it
        return self._sequence(np.concatenate([picture, words]), positions, masked, (self.codes,))

    def _image_last(self, text: ArrayLike, codes: ArrayLike, mask: NDArray[np.bool_]) -> CogLMSequence:
        """text [BOI] codes; where the first code is masked, so is [BOI], which then predicts it."""
        words, picture = self.text_ids(text), self.image_ids(codes)
        ids = np.concatenate([words, [self.begin_id], picture])
        positions = np.concatenate([np.arange(len(words)), [self.begin_position], self.code_positions()])
        masked = np.concatenate([np.zeros(len(words), dtype=np.bool_), mask[:1], mask])
        return self._sequence(ids, positions, masked)

    def _sequence(
        self, ids: Ids, positions: Ids, masked: NDArray[np.bool_], starts: tuple[int, ...] = ()
    ) -> CogLMSequence:
        """Loss on the second to last tokens of every region (equation 2); ``starts`` begin new ones."""
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
        """bool (codes,); CogViewError for another size."""
        flat = np.asarray(mask, dtype=np.bool_).ravel()
        if flat.size != self.codes:
            raise CogViewError(f"a mask of {flat.size} codes does not fit the picture's {self.codes}")
        return flat

    # ------------------------------------------------------------------------------------------ asking

    def prompt(self, text: ArrayLike = ()) -> Sequence:
        """What is read before the first code of a new image: the text, seen both ways, and [BOI]."""
        words = self.text_ids(text)
        ids = np.append(words, self.begin_id)
        positions = np.append(np.arange(len(words)), self.begin_position)
        return Sequence(ids, positions, np.zeros(len(ids), dtype=np.float32), len(words))

    def image_prompt(self, text: ArrayLike, context: ArrayLike = (), length: int | None = None) -> Prompt:
        """The prompt for the first ``length`` codes of a new image; there is no context."""
        read, tokens = self.prompt(text), np.size(text)
        return Prompt(read.ids, read.positions, self.code_positions()[:length], read.prefix, tokens)

    def caption_prompt(self, codes: ArrayLike, language: str | None = None) -> Prompt:
        """The prompt for a caption: the image, seen both ways, and [BOE] or [BOC] (default: English)."""
        ids = np.append(self.image_ids(codes), self.separator(language or "en"))
        positions = np.append(self.code_positions(), 0)
        return Prompt(ids, positions, self.caption_positions(), self.codes)

    def caption_positions(self) -> Ids:
        """Positions of a caption's tokens and its end, after [BOE]."""
        return np.arange(1, self.text_slots, dtype=np.int64)


def collate(sequences: Items[CogLMSequence], pad_id: int = 0, multiple: int = 1) -> dict[str, Tensor]:
    """A batch, padded at the end to the longest (to a ``multiple``) with tokens that nobody sees.

    Returns ``inputs``, ``positions``, ``targets``, ``order`` and ``streams`` (b, L) int64, ``weights``
    (b, L) float32.
    """
    import torch

    length = -(-max(map(len, sequences)) // multiple) * multiple
    fills = {"ids": pad_id, "positions": 0, "targets": pad_id, "weights": 0, "order": -1, "streams": 0}
    batch = {}
    for name, fill in fills.items():
        rows = [getattr(sequence, name) for sequence in sequences]
        whole = np.full((len(rows), length), fill, dtype=rows[0].dtype)
        for row, values in enumerate(rows):
            whole[row, : len(values)] = values
        batch["inputs" if name == "ids" else name] = torch.from_numpy(whole)
    return batch
