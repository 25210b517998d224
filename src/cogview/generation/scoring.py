"""Caption loss: how well a text describes an image, by a caption model (CogView, section 3.2).

CapLoss(x, t) = mean over the text's tokens of -log p(token | image, tokens before); the lower the better.
Self-reranking draws several images and keeps those with the lowest loss. The release takes the *sum* of
log p, the higher the better, among all tokens that are no image codes, the vocabulary's padding among them.

An image is read once however many texts are scored with it. Texts may have different lengths: they stand at
the end, so what is filled up behind them changes nothing.
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
    """A caption model: an engine over the rows that are no image codes, its sequences, and a language."""

    engine: Engine
    format: CaptionFormat
    language: str | None = None

    def score(
        self,
        pictures: Sequence[Ids],
        texts: Sequence[Sequence[int]],
        pairs: Sequence[Pair] | None = None,
        *,
        released: bool = False,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> NDArray[np.float64]:
        """The caption loss of every pair, in nats a token; with ``released`` its score instead.

        Args:
            images: codes (rows * columns,) of each.
            texts: text tokens of each, at least one.
            pairs: (number of an image, number of a text); None: every text of the first image, then of
                the second and so on.
            batch_size: pairs at a time; it does not change them.

        Returns:
            (pairs,)

        Raises CogViewError for an empty or too long text.
        """
        if not all(map(len, texts)):
            raise CogViewError("a text is empty; there is nothing to score")
        if pairs is None:
            pairs = [(i, j) for i in range(len(pictures)) for j in range(len(texts))]
        found = np.full(len(pairs), np.nan)
        wanted: dict[int, list[int]] = {}  # the pairs of each image
        for number, (picture, _) in enumerate(pairs):
            wanted.setdefault(picture, []).append(number)
        size = self._size(batch_size, max(map(len, texts), default=0))

        def run(images: Sequence[int], size: int) -> None:
            work = [(pictures[i], [(n, texts[pairs[n][1]]) for n in wanted[i]]) for i in images]
            for number, value in self._score(work, size, released):
                found[number] = value

        device, advice = self.engine.decoder.device, "close other programs, or take a smaller model"
        for _ in halving(list(wanted), size, run, device, advice):
            if progress:
                progress(int(np.isfinite(found).sum()), len(pairs))
        return found

    def _size(self, asked: int | None, longest: int) -> int:
        """Pictures, and then texts, at a time: as asked, but no more than there is memory for."""
        decoder = self.engine.decoder
        length = self.format.caption_prompt(np.zeros(self.format.codes), self.language).ids.size + longest
        logits = (decoder.rows.stop - decoder.rows.start) * longest
        wide = 4 * length * decoder.config.hidden * (8 + 2 * decoder.config.ffn_multiple)
        row = 2 * bytes_per_row(decoder.config, length, 0, decoder.dtype) + wide + 12 * logits
        free, cache = (
            self.engine.free(decoder.device),
            KVCache.size_in_bytes(decoder.config, 2, length, decoder.dtype),
        )
        size = min(
            asked or BATCH.get(decoder.device.type, BATCH["cpu"]),
            rows_that_fit(free, row),
        )
        log.info("%s", MemoryPlan(decoder.size, cache, row - cache, free, size))
        return size

    @torch.inference_mode()
    def _score(
        self, work: Sequence[tuple[Ids, list[tuple[int, Sequence[int]]]]], size: int, released: bool
    ) -> Iterator[tuple[int, float]]:
        """(number, score) of each image's numbered texts; all images are read at once."""
        hidden, cache = self._read([codes for codes, _ in work])
        rows = [(row, number, text) for row, (_, own) in enumerate(work) for number, text in own]
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            own = torch.tensor([row for row, _, _ in part], device=hidden.device)
            texts = [text for _, _, text in part]
            totals = self._totals(
                hidden[own], cache.select(own, cache.length + _longest(texts)), texts, released
            )
            for (_, number, text), total in zip(part, totals.tolist(), strict=True):
                yield number, total if released else -total / len(text)

    def _read(self, pictures: Sequence[Ids]) -> tuple[Tensor, KVCache]:
        """The states (b, h) after the images and [ROI1], and the cache of all."""
        decoder = self.engine.decoder
        prompts = [self.format.caption_prompt(codes, self.language) for codes in pictures]
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
        """The sum of log p (b,) float64 over each text's tokens, given the states and cache before it."""
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
            fed = ids[:, :-1] + vocabulary.texts.start
            more = model.hidden_states(decoder, fed, places.expand(len(texts), -1), cache)
            states = torch.cat([states, more], 1)
        real = (torch.arange(longest) < lengths[:, None]).to(decoder.device)  # (b, longest)
        columns = None if released else vocabulary.size - vocabulary.texts.start
        logits = decoder.head(states[real])[:, :columns].float()
        losses = torch.zeros(real.shape, dtype=torch.float64, device=decoder.device)
        losses[real] = F.cross_entropy(logits, ids[real], reduction="none").double()
        return -losses.sum(1)


def _longest(texts: Sequence[Sequence[int]]) -> int:
    return max(map(len, texts))


@torch.inference_mode()
def released_score(
    transformer: Transformer, format: CogLMFormat, codes: Ids, text: ArrayLike, precision: Precision
) -> float:
    """As CogView2's released code has it: the mean log-probability of a text's tokens among all tokens, the
    higher the better, after [BOC] whatever the language."""
    device = transformer.tokens.weight.device
    nothing = np.zeros(format.codes, dtype=np.bool_)
    batch = collate([format.captioning(text, codes, nothing, "zh")])
    batch = {name: values.to(device) for name, values in batch.items()}
    regions = MaskRegions(batch["order"], batch["streams"])
    with computing(precision, device):
        hidden = transformer(batch["inputs"], batch["positions"], regions)
    counted = batch["weights"] > 0
    chance = transformer.logits(hidden[counted]).float().log_softmax(-1)
    return float(chance.gather(1, batch["targets"][counted][:, None]).mean())
