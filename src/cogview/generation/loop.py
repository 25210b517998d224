"""The building blocks of all decoding strategies: prefill prompts, read tokens, sample.

A prompt is prefilled once, alone; its cache is copied to the rows of all requests with this prompt. Prompts
of different lengths are padded on the left, so that all rows end in the same column. With guidance, the
second half of the rows holds the negative prompts. Noise is a function of (seed, index, step, token), so
:class:`Batch` samples the same token for a step and state in any order: strategies (``strategies.py``) differ
in speed, not in the result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cogview.generation import decoder as model
from cogview.generation import sampling
from cogview.generation.decoder import Decoder
from cogview.generation.next_tokens import NextTokens
from cogview.generation.sampling import Streams
from cogview.sequences.protocols import Prompt
from cogview.transformer.attention import LeftPadded, Prefix, TextAttentionBias, Visibility
from cogview.transformer.cache import KVCache
from cogview.types import Ids, SamplingParams

Filter = Callable[[Tensor, Sequence[int], Sequence[int]], Tensor]  # logits (m, v), requests, steps -> logits
OnStep = Callable[[int, Tensor], None]  # number of known tokens, all tokens (n, requests)


@dataclass(frozen=True, eq=False)
class SequenceRequest:
    """One sequence to generate.

    negative_prompt: the prompt that guidance moves away from. known_tokens: (n,) int64 ids of the vocabulary,
    -1 for those to generate; None: all are generated. likelihoods: returns log-likelihoods (rows,) of the
    decoder's rows for new token i, which are added to the model's logits.
    """

    prompt: Prompt
    seed: int
    index: int
    negative_prompt: Prompt | None = None
    known_tokens: Ids | None = None
    likelihoods: Callable[[int], Tensor] | None = None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompt, and the negative prompt if there is one."""
        return (self.prompt,) if self.negative_prompt is None else (self.prompt, self.negative_prompt)


@dataclass(frozen=True)
class Prefilled:
    """The result of prefilling a prompt: its last hidden state (1, h) and its cache, batch 1."""

    hidden: Tensor
    cache: KVCache


@dataclass
class Batch:
    """The state of a batch during decoding.

    tokens: (n, requests), -1 where one is to be generated; positions: (n, rows); hidden: (rows, h), the state
    after the tokens that ``cache`` holds; the rows are the requests, with ``guided`` followed by their
    negative prompts. exact: results do not depend on the rest of the batch, bit for bit. ordered: the
    attention pattern is random and must be sampled token by token. next_tokens: guesses for a text.
    """

    decoder: Decoder
    params: SamplingParams
    tokens: Tensor
    positions: Tensor
    hidden: Tensor
    cache: KVCache
    visibility: Visibility | None
    noise: Streams
    guided: bool
    filter: Filter | None
    clusters: Tensor | None
    stop: int | None
    exact: bool = False
    ordered: bool = False
    next_tokens: NextTokens | None = None

    @property
    def requests(self) -> int:
        """How many sequences are generated."""
        return self.tokens.shape[1]

    @property
    def columns(self) -> int:
        """Number of tokens to choose from: the width of logits and noise."""
        count: int = self.decoder.rows.stop - self.decoder.rows.start
        return count

    def rows(self, request: int) -> slice:
        """The rows of a request: one, and with guidance that of its negative prompt."""
        return slice(request, None, self.requests)

    def read(self, first: int, end: int) -> None:
        """Feed the tokens from ``first`` to ``end`` to the transformer."""
        ids = self.tokens[first:end].repeat(1, 2 if self.guided else 1)
        positions = self.positions[first:end]
        self.hidden = model.prefill(self.decoder, ids.T, positions.T, self.cache, self.visibility, self.exact)

    def sample(
        self, hidden: Tensor, requests: Sequence[int], steps: Sequence[int], noise: Tensor | None = None
    ) -> Tensor:
        """Sample the tokens (m,) that follow hidden states.

        Guidance, filter, temperature and top-k or top-p, then the argmax with Gumbel noise. The head is
        linear, so guidance is applied to hidden states instead of logits.

        Args:
            hidden: (m, h), with guidance followed by those of the negative prompts: (2m, h).
            requests, steps: of each token; for filter and noise.
            noise: (m, v), of the requests at these steps, if it is already known.
        """
        if self.guided:
            conditional, unconditional = hidden.chunk(2)
            hidden = sampling.guide(conditional, unconditional, self.params.guidance_scale)
        logits = self.decoder.head(hidden).float()
        if self.filter is not None:
            logits = self.filter(logits, requests, steps)
        if noise is None:
            noise = self.noise.gumbel_of(requests, steps, logits.shape[-1])
        first: int = self.decoder.rows.start
        return sampling.sample(logits, noise, self.params, self.clusters) + first


Strategy = Callable[[Batch, OnStep], None]


@torch.inference_mode()
def prefill(decoder: Decoder, prompt: Prompt, bias: float = 0.0) -> Prefilled:
    """Read a prompt, with ``bias`` added to the attention scores towards its text."""
    cache = KVCache.allocate(decoder.config, 1, len(prompt.ids), decoder.dtype, decoder.device)
    ids, positions = (torch.from_numpy(x)[None].to(decoder.device) for x in (prompt.ids, prompt.positions))
    visibility = prompt.visibility or Prefix(prompt.prefix)
    if bias and prompt.text_length:
        visibility = TextAttentionBias(visibility, prompt.text_length, bias)
    return Prefilled(model.prefill(decoder, ids, positions, cache, visibility), cache)


def fan_out(
    decoder: Decoder, prompts: Sequence[Prompt], prefilled: Sequence[Prefilled], bias: float
) -> tuple[Tensor, KVCache, Visibility | None]:
    """Hidden states (rows, h) and one cache for all prompts, each ending in the same column."""
    lengths = [one.cache.length for one in prefilled]
    longest = max(lengths)
    capacity = longest + len(prompts[0].decode_positions) - 1
    cache = KVCache.allocate(decoder.config, len(prompts), capacity, decoder.dtype, decoder.device)
    for row, one in enumerate(prefilled):
        start = longest - one.cache.length
        entries = cache.entries[:, :, row]  # (2, layers, heads, capacity, head_dim)
        entries[..., :start, :] = 0
        entries[..., start:longest, :] = one.cache.entries[:, :, 0]
    cache.advance(longest)
    padding = torch.tensor([longest - length for length in lengths], device=decoder.device)
    text = torch.tensor([prompt.text_length for prompt in prompts], device=decoder.device)
    plain = min(lengths) == longest and not (bias and text.any())
    visibility = None if plain else LeftPadded(padding, capacity, text, bias)
    return torch.cat([one.hidden for one in prefilled]), cache, visibility


def known_tokens(requests: Sequence[SequenceRequest]) -> Ids:
    """(n, requests) int64: the known tokens, -1 for those to generate."""
    blank = np.full(len(requests[0].prompt.decode_positions), -1, dtype=np.int64)
    return np.stack([blank if one.known_tokens is None else one.known_tokens for one in requests], 1)


def likelihood_filter(requests: Sequence[SequenceRequest]) -> Filter | None:
    """A filter that adds the requests' log-likelihoods to the logits; None if no request has any."""
    if all(one.likelihoods is None for one in requests):
        return None

    @functools.lru_cache(maxsize=64 * len(requests))
    def of(request: int, step: int) -> Tensor | None:
        likelihoods = requests[request].likelihoods
        return None if likelihoods is None else likelihoods(step)

    def add(logits: Tensor, numbers: Sequence[int], steps: Sequence[int]) -> Tensor:
        added = torch.zeros_like(logits)
        for row, (number, step) in enumerate(zip(numbers, steps, strict=True)):
            likelihood = of(number, step)
            if likelihood is not None:
                added[row] = likelihood
        return logits + added

    return add
