"""Caption loss: how well a text describes an image, according to a caption model (CogView, section 3.2).

CapLoss(x, t) = mean over the text's tokens of -log p(token | image, preceding tokens); lower is better.
Self-reranking generates several images and keeps those with the lowest loss. The released code uses the *sum*
of log p instead (higher is better), over all tokens except image codes, but including the vocabulary's
padding.

An image is prefilled once for all of its texts. Texts may have different lengths: they are at the end of the
sequence, so right padding does not affect the result.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.generation import decoder as model
from cogview.generation.decoder import computing
from cogview.generation.engine import BATCH, Engine, MemoryPlan, bytes_per_row, halving, rows_that_fit
from cogview.sequences.coglm import CogLMFormat, collate
from cogview.sequences.protocols import CaptionFormat
from cogview.transformer.attention import Causal, MaskRegions, Prefix
from cogview.transformer.cache import KVCache
from cogview.transformer.model import Transformer
from cogview.types import Ids, Precision, ProgressCallback

Pair = tuple[int, int]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scorer:
    """A caption model: an engine over all rows except image codes, its sequence format, and a language."""

    engine: Engine
    format: CaptionFormat
    language: str | None = None

    def score(
        self,
        images: Sequence[Ids],
        texts: Sequence[Sequence[int]],
        pairs: Sequence[Pair] | None = None,
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> NDArray[np.float64]:
        """The caption loss of every pair, in nats per token; with ``released`` the released score.

        Args:
            images: codes (rows * columns,) of each image.
            texts: tokens of each text, at least one.
            pairs: (number of an image, number of a text); None: all texts with the first image, then with
                the second and so on.
            batch_size: pairs at a time; it does not change the result.

        Returns:
            (pairs,)

        Raises:
            CogViewError: a text is empty or too long.
        """
        if not all(map(len, texts)):
            raise CogViewError("a text is empty; there is nothing to score")
        if pairs is None:
            pairs = [(i, j) for i in range(len(images)) for j in range(len(texts))]
        scores = np.full(len(pairs), np.nan)
        by_image: dict[int, list[int]] = {}  # the numbers of the pairs of each image
        for number, (image, _) in enumerate(pairs):
            by_image.setdefault(image, []).append(number)
        size = self._batch_size(batch_size, max(map(len, texts), default=0))

        def run(batch: Sequence[int], size: int) -> None:
            work = [(images[i], [(n, texts[pairs[n][1]]) for n in by_image[i]]) for i in batch]
            for number, score in self._score(work, size, released):
                scores[number] = score

        device, advice = self.engine.decoder.device, "close other programs, or use a smaller model"
        for _ in halving(list(by_image), size, run, device, advice):
            if progress:
                progress(int(np.isfinite(scores).sum()), len(pairs))
        return scores

    def _batch_size(self, batch_size: int | None, longest: int) -> int:
        """Images, and then texts, at a time: ``batch_size``, or fewer if memory does not suffice."""
        decoder = self.engine.decoder
        length = self.format.caption_prompt(np.zeros(self.format.codes), self.language).ids.size + longest
        logits = (decoder.rows.stop - decoder.rows.start) * longest
        activations = 4 * length * decoder.config.hidden * (8 + 2 * decoder.config.ffn_multiple)
        row = 2 * bytes_per_row(decoder.config, length, 0, decoder.dtype) + activations + 12 * logits
        free, cache = (
            self.engine.free(decoder.device),
            KVCache.size_in_bytes(decoder.config, 2, length, decoder.dtype),
        )
        size = min(
            batch_size or BATCH.get(decoder.device.type, BATCH["cpu"]),
            rows_that_fit(free, row),
        )
        log.info("%s", MemoryPlan(decoder.size, cache, row - cache, free, size))
        return size

    @torch.inference_mode()
    def _score(
        self, work: Sequence[tuple[Ids, list[tuple[int, Sequence[int]]]]], size: int, released: bool
    ) -> Iterator[tuple[int, float]]:
        """(number, score) of each image's numbered texts; all images are prefilled in one batch."""
        hidden, cache = self._prefill([codes for codes, _ in work])
        scored = [(row, number, text) for row, (_, numbered) in enumerate(work) for number, text in numbered]
        for first in range(0, len(scored), size):
            batch = scored[first : first + size]
            rows = torch.tensor([row for row, _, _ in batch], device=hidden.device)
            texts = [text for _, _, text in batch]
            totals = self._totals(
                hidden[rows], cache.select(rows, cache.length + _longest(texts)), texts, released
            )
            for (_, number, text), total in zip(batch, totals.tolist(), strict=True):
                yield number, total if released else -total / len(text)

    def _prefill(self, images: Sequence[Ids]) -> tuple[Tensor, KVCache]:
        """The hidden states (b, h) after the images and [ROI1], and the cache of all images."""
        decoder = self.engine.decoder
        prompts = [self.format.caption_prompt(codes, self.language) for codes in images]
        ids, positions = (
            torch.from_numpy(np.stack(rows)).to(decoder.device)
            for rows in ([prompt.ids for prompt in prompts], [prompt.positions for prompt in prompts])
        )
        batch, length = ids.shape
        cache = KVCache.allocate(decoder.config, batch, length, decoder.dtype, decoder.device)
        visibility = Prefix(prompts[0].prefix) if prompts[0].prefix else Causal()
        return model.prefill(decoder, ids, positions, cache, visibility), cache

    def _totals(
        self, hidden: Tensor, cache: KVCache, texts: Sequence[Sequence[int]], released: bool
    ) -> Tensor:
        """The sum of log p (b,) float64 over each text's tokens, given the states and cache of its image."""
        decoder, vocabulary = self.engine.decoder, self.format.vocabulary
        lengths, longest = torch.tensor([len(text) for text in texts]), _longest(texts)
        ids = torch.zeros(len(texts), longest, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        ids = ids.to(decoder.device)
        states = hidden[:, None]
        if longest > 1:
            prompt = self.format.caption_prompt(np.zeros(self.format.codes), self.language)
            places = torch.from_numpy(prompt.decode_positions[: longest - 1]).to(decoder.device)
            inputs = ids[:, :-1] + vocabulary.texts.start
            text_states = model.hidden_states(decoder, inputs, places.expand(len(texts), -1), cache)
            states = torch.cat([states, text_states], 1)
        mask = (torch.arange(longest) < lengths[:, None]).to(decoder.device)  # (b, longest)
        columns = None if released else vocabulary.size - vocabulary.texts.start
        logits = decoder.head(states[mask])[:, :columns].float()
        losses = torch.zeros(mask.shape, dtype=torch.float64, device=decoder.device)
        losses[mask] = F.cross_entropy(logits, ids[mask], reduction="none").double()
        return -losses.sum(1)


def _longest(texts: Sequence[Sequence[int]]) -> int:
    return max(map(len, texts))


@torch.inference_mode()
def released_score(
    transformer: Transformer, format: CogLMFormat, codes: Ids, text: ArrayLike, precision: Precision
) -> float:
    """The score of CogView2's released code: the mean log-probability of a text's tokens over the entire
    vocabulary, after [BOC] in any language; higher is better."""
    device = transformer.tokens.weight.device
    no_mask = np.zeros(format.codes, dtype=np.bool_)
    batch = collate([format.captioning(text, codes, no_mask, "zh")])
    batch = {name: values.to(device) for name, values in batch.items()}
    regions = MaskRegions(batch["order"], batch["streams"])
    with computing(precision, device):
        hidden = transformer(batch["inputs"], batch["positions"], regions)
    scored = batch["weights"] > 0
    log_probs = transformer.logits(hidden[scored]).float().log_softmax(-1)
    return float(log_probs.gather(1, batch["targets"][scored][:, None]).mean())
