"""Captions for pictures: text drawn after a picture's codes (CogView, section 3.2).

The sequence is the caption model's, [BASE] [BOI1] codes [EOI1] [ROI1] text (end), and ends at its end token;
the release has none and always writes 20 tokens. Captions are drawn like pictures, one random stream each, or
searched for with beams. A caption does not depend on the other pictures of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from cogview.errors import CogViewError
from cogview.generation.beams import Beam, search
from cogview.generation.engine import Engine, Ids, Job, Progress, Prompt, Writing
from cogview.generation.languages import allowed_pieces
from cogview.generation.settings import Sampling
from cogview.sequences import SequenceFormat
from cogview.tokenizers.text import TextTokenizer
from cogview.vocabulary import Vocabulary

RELEASED_LENGTH = 20  # tokens of a caption where no token ends it


@dataclass(frozen=True, eq=False)
class Draft:
    """A caption: its text, its pieces (n,) int64, and for beams the mean log-probability of its tokens."""

    text: str
    pieces: Ids
    score: float | None = None


def text_rows(vocabulary: Vocabulary, rows: int) -> slice:
    """The rows of an output matrix of ``rows`` that are no image codes: text, control tokens and padding."""
    return slice(vocabulary.texts.start, rows)


@dataclass(frozen=True)
class Captioner:
    """A caption model: an engine over :func:`text_rows`, its sequences, and the text tokenizer."""

    engine: Engine
    form: SequenceFormat
    text: TextTokenizer

    def prompt(self, codes: Ids, length: int | None = None) -> Prompt:
        """What is read of a picture, and where up to ``length`` tokens are written (default: what fits)."""
        read = self.form.prompt(codes=codes)
        return Prompt(read.ids, read.positions, self.form.text_positions()[: self.steps(length)], read.prefix)

    def steps(self, length: int | None) -> int:
        """Tokens to write at most; CogViewError for a ``length`` that the model does not reach."""
        limit = self.form.text_limit
        if length is None:
            length = limit if self.form.end is not None else min(limit, RELEASED_LENGTH)
        if not 1 <= length <= limit:
            raise CogViewError(f"the longest caption is {length} tokens; this model writes 1 to {limit}")
        return length

    def writing(self, language: str | None) -> Writing:
        """What may come: the language's pieces, and the end of the caption."""
        rows, vocabulary = self.engine.decoder.rows, self.form.vocabulary
        allowed = torch.zeros(rows.stop - rows.start, dtype=torch.bool)
        allowed[: vocabulary.text_pieces] = allowed_pieces(self.text, vocabulary, language)
        stop = None if self.form.end is None else vocabulary.control(self.form.end)
        if stop is not None:
            allowed[stop - rows.start] = True
        return Writing(allowed.to(self.engine.decoder.device), stop)

    def sample(
        self,
        pictures: Sequence[Ids],
        wanted: Sequence[tuple[int, int, int]],
        settings: Sampling,
        language: str | None = None,
        length: int | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, Draft]]:
        """Captions drawn by chance, as (number in ``wanted``, caption), as they are done.

        Args:
            pictures: codes (rows * columns,) of each; each is read once.
            wanted: (number of its picture, seed, index) of each caption.
        """
        prompts = [self.prompt(codes, length) for codes in pictures]
        jobs = [Job(prompts[picture], seed, index) for picture, seed, index in wanted]
        plain = settings.model_copy(update={"guidance": 1.0})
        drawn = self.engine.draw(jobs, plain, batch_size, progress, self.writing(language))
        return ((number, self._draft(ids)) for number, ids in drawn)

    def beams(
        self, codes: Ids, n: int, beams: int, language: str | None = None, length: int | None = None
    ) -> list[Draft]:
        """The ``n`` best captions of one picture found with ``beams``, the best first."""
        prompt, writing = self.prompt(codes, length), self.writing(language)
        read = self.engine.read(prompt)
        found = search(self.engine.decoder, read.hidden, read.cache, prompt.new, writing, beams)
        return [self._draft(np.array(beam.ids, dtype=np.int64), beam) for beam in found[:n]]

    def _draft(self, ids: Ids, beam: Beam | None = None) -> Draft:
        pieces = ids - self.form.vocabulary.texts.start
        return Draft(self.text.decode(pieces).strip(), pieces, None if beam is None else beam.score)
