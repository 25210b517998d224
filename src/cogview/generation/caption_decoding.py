"""Captioning: text generated after an image's codes (CogView, section 3.2).

A caption ends at the end token of the model's sequence format; the released format has none and always
generates 20 tokens. Captions are sampled like images, each with its own random stream, or found by beam
search. A caption does not depend on the other images of its batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cogview.generation.beams import search
from cogview.generation.engine import Engine, TokenConstraint
from cogview.generation.languages import allowed_tokens
from cogview.generation.loop import SequenceRequest
from cogview.generation.without_model import Beam
from cogview.sequences.protocols import CaptionFormat, Prompt, caption_length
from cogview.tokenizers.text import TextTokenizer
from cogview.types import Ids, ProgressCallback, SamplingParams
from cogview.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Draft:
    """A caption: its text, its text tokens (n,) int64, and with beam search its mean log-probability per
    token."""

    text: str
    pieces: Ids
    score: float | None = None


def text_rows(vocabulary: Vocabulary, rows: int) -> slice:
    """The rows of an output matrix of ``rows`` that are not image codes: text, control tokens, padding."""
    return slice(vocabulary.texts.start, rows)


@dataclass(frozen=True)
class Captioner:
    """A caption model: an engine over :func:`text_rows`, its sequence format, and the text tokenizer."""

    engine: Engine
    format: CaptionFormat
    text: TextTokenizer

    def prompt(self, codes: Ids, length: int | None = None, language: str | None = None) -> Prompt:
        """The prompt for a caption of up to ``length`` tokens (default: the model's limit)."""
        prompt = self.format.caption_prompt(codes, language)
        return replace(prompt, decode_positions=prompt.decode_positions[: self.steps(length)])

    def steps(self, length: int | None) -> int:
        """The largest number of tokens to generate; raises CogViewError if ``length`` exceeds the model's
        limit."""
        return caption_length(self.format, length)

    def constraint(self, language: str | None) -> TokenConstraint:
        """Allows only the language's tokens and the end token."""
        rows, vocabulary = self.engine.decoder.rows, self.format.vocabulary
        allowed = torch.zeros(rows.stop - rows.start, dtype=torch.bool)
        allowed[: vocabulary.text_pieces] = torch.from_numpy(allowed_tokens(self.text, vocabulary, language))
        stop = None if self.format.end is None else vocabulary.control(self.format.end)
        if stop is not None:
            allowed[stop - rows.start] = True
        return TokenConstraint(allowed.to(self.engine.decoder.device), stop)

    def sample(
        self,
        images: Sequence[Ids],
        samples: Sequence[tuple[int, int, int]],
        params: SamplingParams,
        language: str | None = None,
        length: int | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Iterator[tuple[int, Draft]]:
        """Sample captions; yields (number in ``samples``, caption) as soon as each is finished.

        Args:
            images: codes (rows * columns,) of each image, which is prefilled once.
            samples: (number of the image, seed, index) of each caption.
        """
        prompts = [self.prompt(codes, length, language) for codes in images]
        requests = [SequenceRequest(prompts[image], seed, index) for image, seed, index in samples]
        unguided = SamplingParams(guidance_scale=1.0).over(params)
        results = self.engine.generate(requests, unguided, batch_size, progress, self.constraint(language))
        return ((number, self._draft(ids)) for number, ids in results)

    def beams(
        self, codes: Ids, n: int, beams: int, language: str | None = None, length: int | None = None
    ) -> list[Draft]:
        """The ``n`` best captions of one image by a search of width ``beams``, the best first."""
        prompt, constraint = self.prompt(codes, length, language), self.constraint(language)
        prefilled = self.engine.prefill(prompt)
        results = search(
            self.engine.decoder,
            prefilled.hidden,
            prefilled.cache,
            prompt.decode_positions,
            constraint,
            beams,
        )
        return [self._draft(np.array(beam.ids, dtype=np.int64), beam) for beam in results[:n]]

    def _draft(self, ids: Ids, beam: Beam | None = None) -> Draft:
        tokens = ids - self.format.vocabulary.texts.start
        return Draft(self.text.decode(tokens).strip(), tokens, None if beam is None else beam.score)
