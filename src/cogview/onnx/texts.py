"""Captions and caption losses with an exported transformer (CogView, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cogview.generation.languages import allowed_tokens
from cogview.generation.without_model import Scores, beam_search
from cogview.onnx.cached_rows import prefill
from cogview.onnx.decoding import Constraint, Engine, Request
from cogview.onnx.draws import log_softmax
from cogview.pipelines.base import Caption
from cogview.sequences.protocols import CaptionFormat, Prompt, caption_length
from cogview.tokenizers.text import TextTokenizer
from cogview.types import Ids, SamplingParams


@dataclass(frozen=True)
class Texts:
    """A caption model: an engine over its text head, its sequence format, and the text tokenizer."""

    engine: Engine
    format: CaptionFormat
    text: TextTokenizer

    def prompt(self, codes: Ids, length: int | None = None, language: str | None = None) -> Prompt:
        """The prompt for a caption of up to ``length`` tokens (default: the model's limit)."""
        prompt, steps = self.format.caption_prompt(codes, language), caption_length(self.format, length)
        return replace(prompt, decode_positions=prompt.decode_positions[:steps])

    def constraint(self, language: str | None) -> Constraint:
        """Allows only the language's tokens and the end token."""
        vocabulary = self.format.vocabulary
        first = vocabulary.texts.start
        allowed = np.zeros(vocabulary.size - first, dtype=np.bool_)
        allowed[: vocabulary.text_pieces] = allowed_tokens(self.text, vocabulary, language)
        stop = None if self.format.end is None else vocabulary.control(self.format.end)
        if stop is not None:
            allowed[stop - first] = True
        return Constraint(allowed, stop, first)

    def sample(
        self,
        images: Sequence[Ids],
        n: int,
        seed: int,
        params: SamplingParams,
        language: str | None = None,
        length: int | None = None,
    ) -> list[list[Caption]]:
        """Sample ``n`` captions for each image's codes (rows * columns,)."""
        prompts = [self.prompt(codes, length, language) for codes in images]
        requests = [Request(prompt, seed, index) for prompt in prompts for index in range(n)]
        unguided = SamplingParams(guidance_scale=1.0).over(params)
        ids = dict(self.engine.generate(requests, unguided, constraint=self.constraint(language)))
        captions = [self._caption(ids[i], None, seed, requests[i].index) for i in range(len(requests))]
        return [captions[first : first + n] for first in range(0, len(captions), n)]

    def beams(
        self, codes: Ids, n: int, beams: int, language: str | None = None, length: int | None = None
    ) -> list[Caption]:
        """The ``n`` best captions of one image by a search of width ``beams``, the best first."""
        prompt, constraint = self.prompt(codes, length, language), self.constraint(language)
        steps = len(prompt.decode_positions)
        session, head = self.engine.session, self.engine.head
        hidden, rows = prefill(session, [prompt], steps)

        def score(step: int, parents: Sequence[int], tokens: Sequence[int]) -> Scores:
            nonlocal hidden, rows
            if step:
                rows = rows.select(parents)
                positions = np.full((len(tokens), 1), prompt.decode_positions[step - 1])
                hidden = rows.read(np.array(tokens)[:, None], positions)[:, -1]
            logits = constraint.filter(session.logits(head, hidden), [], [step] * len(hidden))
            return log_softmax(logits).astype(np.float64)

        results = beam_search(score, steps, constraint.first_id, constraint.stop, beams)
        return [self._caption(np.array(beam.ids, dtype=np.int64), beam.score) for beam in results[:n]]

    def losses(
        self, images: Sequence[Ids], texts: Sequence[Sequence[int]], language: str | None = None
    ) -> NDArray[np.float64]:
        """The caption losses (images, texts): the mean of -log p over each text's tokens, in nats."""
        first, session = self.format.vocabulary.texts.start, self.engine.session
        longest, lengths = max(map(len, texts)), np.array([len(text) for text in texts])
        ids = np.zeros((len(texts), longest), dtype=np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
        mask = np.arange(longest) < lengths[:, None]
        result = np.empty((len(images), len(texts)))
        for number, codes in enumerate(images):
            prompt = self.format.caption_prompt(codes, language)
            hidden, rows = prefill(session, [prompt], longest)
            states = np.repeat(hidden[:, None], len(texts), 0)
            if longest > 1:
                positions = np.tile(prompt.decode_positions[: longest - 1], (len(texts), 1))
                text_rows = rows.select([0] * len(texts))
                text_states = text_rows.read(ids[:, :-1] + first, positions, lengths - 1)
                states = np.concatenate([states, text_states], 1)
            log_probs = log_softmax(session.logits(self.engine.head, states[mask]))
            losses = np.zeros(mask.shape)
            losses[mask] = -np.take_along_axis(log_probs, ids[mask][:, None], 1)[:, 0]
            result[number] = losses.sum(1) / lengths
        return result

    def _caption(self, ids: Ids, score: float | None, seed: int | None = None, index: int = 0) -> Caption:
        tokens = ids - self.format.vocabulary.texts.start
        return Caption(self.text.decode(tokens).strip(), tokens, score, seed, index)
