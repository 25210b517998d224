"""Captions for images: text generated after an image's codes (CogView, section 3.2).

The sequence is the caption model's and ends at its end token; the release has none and always writes 20
tokens. Captions are sampled like images, one random stream each, or found by beam search. A caption does not
depend on the other images of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cogview.generation.beams import search
from cogview.generation.engine import Engine, TokenConstraint
from cogview.generation.languages import allowed_pieces
from cogview.generation.loop import SequenceRequest
from cogview.generation.without_model import Beam
from cogview.sequences.protocols import CaptionFormat, Prompt, caption_length
from cogview.tokenizers.text import TextTokenizer
from cogview.types import Ids, ProgressCallback, SamplingParams
from cogview.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Draft:
    """A caption: its text, its tokens (n,) int64, and for beams the mean log-probability of its tokens."""

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
    format: CaptionFormat
    text: TextTokenizer

    def prompt(self, codes: Ids, length: int | None = None, language: str | None = None) -> Prompt:
        """The prompt for up to ``length`` tokens about an image (default: what fits)."""
        prompt = self.format.caption_prompt(codes, language)
        return replace(prompt, decode_positions=prompt.decode_positions[: self.steps(length)])

    def steps(self, length: int | None) -> int:
        """Tokens to write at most; CogViewError for a ``length`` that the model does not reach."""
        return caption_length(self.format, length)

    def constraint(self, language: str | None) -> TokenConstraint:
        """What may come: the language's tokens, and the end of the caption."""
        rows, vocabulary = self.engine.decoder.rows, self.format.vocabulary
        allowed = torch.zeros(rows.stop - rows.start, dtype=torch.bool)
        allowed[: vocabulary.text_pieces] = torch.from_numpy(allowed_pieces(self.text, vocabulary, language))
        stop = None if self.format.end is None else vocabulary.control(self.format.end)
        if stop is not None:
            allowed[stop - rows.start] = True
        return TokenConstraint(allowed.to(self.engine.decoder.device), stop)

    def sample(
        self,
        images: Sequence[Ids],
        wanted: Sequence[tuple[int, int, int]],
        params: SamplingParams,
        language: str | None = None,
        length: int | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Iterator[tuple[int, Draft]]:
        """Sampled captions, as (number in ``wanted``, caption), as they are done.

        Args:
            images: codes (rows * columns,) of each; each is read once.
            wanted: (number of its image, seed, index) of each caption.
        """
        prompts = [self.prompt(codes, length, language) for codes in images]
        requests = [SequenceRequest(prompts[image], seed, index) for image, seed, index in wanted]
        plain = SamplingParams(guidance_scale=1.0).over(params)
        found = self.engine.generate(requests, plain, batch_size, progress, self.constraint(language))
        return ((number, self._draft(ids)) for number, ids in found)

    def beams(
        self, codes: Ids, n: int, beams: int, language: str | None = None, length: int | None = None
    ) -> list[Draft]:
        """The ``n`` best captions of one image found with ``beams``, the best first."""
        prompt, constraint = self.prompt(codes, length, language), self.constraint(language)
        read = self.engine.prefill(prompt)
        decoder = self.engine.decoder
        found = search(decoder, read.hidden, read.cache, prompt.decode_positions, constraint, beams)
        return [self._draft(np.array(beam.ids, dtype=np.int64), beam) for beam in found[:n]]

    def _draft(self, ids: Ids, beam: Beam | None = None) -> Draft:
        tokens = ids - self.format.vocabulary.texts.start
        return Draft(self.text.decode(tokens).strip(), tokens, None if beam is None else beam.score)
