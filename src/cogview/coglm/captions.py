"""CogLM as a caption model: the picture, seen both ways, then [BOE] or [BOC], then text.

What :mod:`cogview.generation.captioning` and ``scoring`` ask of the sequences of a caption model.
"""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from cogview.coglm.format import CogLMFormat, Ids
from cogview.sequences import Sequence
from cogview.vocabulary import Vocabulary


@dataclass(frozen=True)
class Captions:
    """The captions of one language."""

    form: CogLMFormat
    language: str

    @property
    def vocabulary(self) -> Vocabulary:
        """The id space."""
        return self.form.vocabulary

    @property
    def codes(self) -> int:
        """Codes of the picture."""
        return self.form.codes

    @property
    def end(self) -> str | None:
        """The control token after a caption, where there is one."""
        return self.form.end

    @property
    def text_limit(self) -> int:
        """The most pieces a caption may have."""
        return self.form.text_limit

    def prompt(self, text: ArrayLike = (), codes: ArrayLike = ()) -> Sequence:
        """What is read before the first piece; ``text`` is for other kinds of sequences."""
        return self.form.caption_prompt(codes, self.language)

    def text_positions(self) -> Ids:
        """Positions of the pieces."""
        return self.form.caption_positions()
