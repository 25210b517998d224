"""How a batch is decoded: token by token, or several tokens in one forward; the tokens are the same.

Noise is a function of (seed, image, step, token), so sampling is a deterministic map: each token is a
function of those before it. Jacobi iteration finds its fixed point (Wiggers and Hoogeboom, *Predictive
Sampling with Forecasting Autoregressive Models*, ICML 2020; *Speculative Coupled Decoding*, arXiv
2510.24211). A window of guesses is read at once and each position is sampled with its own noise; what was
sampled after true tokens only is true. So each forward gives at least one token, and all up to the first
wrong guess; the rest are better guesses for the next window.

Requests accept different numbers of tokens: each has its own window and its own place in the cache. On a GPU
most batches are decoded in the same windows by ``static_windows.py``, without a host between two steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from cogview.generation.decoder import Segment, read_segments, segment
from cogview.generation.loop import Batch, OnStep, Strategy
from cogview.generation.static_windows import suits, windowed
from cogview.generation.without_model import SMALL, Guesses, window_size
from cogview.transformer.attention import Causal
from cogview.types import Decoding

SMALL_EXACT = {"int8": 2}  # where each query attends by itself, by precision
TOKENS = {"cpu": 32, "cuda": 256}  # read in one forward, all rows together; elsewhere as on a CPU
MOST = {"cpu": 16, "cuda": 32}  # tokens sampled of one request
CHECK = {"cuda": 16}  # steps between two looks whether all texts have ended, for which the host waits


def auto(batch: Batch, on_step: OnStep) -> None:
    """Several tokens in one forward for small batches, token by token for others.

    Some patterns of attention are drawn token by token.
    """
    most = SMALL_EXACT.get(batch.decoder.precision, 0) if batch.exact else SMALL
    small = len(batch.hidden) <= most and not batch.ordered
    (jacobi if small else sequential)(batch, on_step)


def sequential(batch: Batch, on_step: OnStep) -> None:
    """One token after another, in order; runs of known tokens are read at once."""
    if batch.tokens.is_cuda and suits(batch):
        return windowed(batch, on_step, 1)
    tokens, read, step = batch.tokens, 0, -1
    requests = range(batch.requests)
    for step in (tokens < 0).any(1).nonzero().flatten().tolist():
        if read < step:
            batch.read(read, step)
            read = step
        noise = batch.noise.gumbel(step, batch.columns)
        sampled = batch.sample(batch.hidden, requests, [step] * len(requests), noise)
        tokens[step] = torch.where(tokens[step] < 0, sampled, tokens[step])
        on_step(step + 1, tokens)
        check = (step + 1) % CHECK.get(tokens.device.type, 1) == 0
        if check and batch.stop is not None and bool((tokens[: step + 1] == batch.stop).any(0).all()):
            break
    if step + 1 < len(tokens):
        on_step(len(tokens), tokens)


def jacobi(batch: Batch, on_step: OnStep) -> None:
    """Windows of guesses, each sampled until it is right."""
    if batch.tokens.is_cuda and suits(batch):
        return windowed(batch, on_step, _size(batch, batch.requests))
    after = batch.next_tokens.after if batch.next_tokens else None
    requests = [
        Guesses(number, batch.tokens[:, number].tolist(), batch.stop, after)
        for number in range(batch.requests)
    ]
    noise, known = Noise(batch), 0
    ready = [one for one in requests if one.open[:1] == [0]]
    if ready:  # the first token follows the prompt, which is read already
        rows = torch.arange(len(batch.hidden)).view(-1, len(requests))[:, [one.number for one in ready]]
        _sample(batch, noise, batch.hidden[rows.flatten()], [(one, [0]) for one in ready])
    while known < len(batch.tokens):
        before, known = known, min(one.known for one in requests)
        if known > before:
            on_step(known, batch.tokens)
        waiting = [one for one in requests if not one.done]
        if waiting:
            size = _size(batch, len(waiting))
            windows = [(one, one.guess(size)) for one in waiting]
            _sample(batch, noise, _read(batch, windows), windows)


def _size(batch: Batch, requests: int) -> int:
    """Tokens to sample of each request in the next forward: up to there it costs little more than one."""
    tokens, most = (by.get(batch.tokens.device.type, by["cpu"]) for by in (TOKENS, MOST))
    rows, known = requests * (1 + batch.guided), batch.next_tokens is not None
    return window_size(rows, batch.stop is not None, tokens, most, known)


Window = tuple[Guesses, list[int]]  # a request, and the steps that are sampled next


class Noise:
    """Noise of a batch, drawn once for each step; kept while a window may ask for it."""

    def __init__(self, batch: Batch) -> None:
        self.streams, self.columns = batch.noise, batch.columns
        self.kept: dict[tuple[int, int], Tensor] = {}

    def of(self, requests: Sequence[int], steps: Sequence[int]) -> Tensor:
        """(m, v) of the requests at these steps."""
        asked = list(zip(requests, steps, strict=True))
        new = [one for one in asked if one not in self.kept]
        if new:
            drawn = self.streams.gumbel_of([r for r, _ in new], [s for _, s in new], self.columns)
            self.kept |= dict(zip(new, drawn, strict=True))
        self.kept = {one: self.kept[one] for one in asked}
        return torch.stack(list(self.kept.values()))


def _read(batch: Batch, windows: Sequence[Window]) -> Tensor:
    """Read windows in one forward: the states (m, h) before the steps to sample, with guidance (2m, h)."""
    ids, positions, segments = list[int](), list[Tensor](), list[Segment]()
    before: list[list[int]] = [[] for _ in range(1 + batch.guided)]
    visibility, filled = batch.visibility or Causal(), batch.cache.length
    for one, steps in windows:
        rows, first, end = batch.rows(one.number), one.read, steps[-1]
        for wanted in before:
            wanted += [len(ids) + step - 1 - first for step in steps]
            ids += one.tokens[first:end]
        positions.append(batch.positions[first:end, rows].T.flatten())
        segments.append(
            segment(batch.decoder, batch.cache, visibility, end - first, batch.exact, rows, filled + first)
        )
    flat, at = (torch.tensor(x, device=batch.tokens.device) for x in (ids, [*itertools.chain(*before)]))
    return read_segments(batch.decoder, flat, torch.cat(positions), batch.cache, segments, at)


def _sample(batch: Batch, noise: Noise, hidden: Tensor, windows: Sequence[Window]) -> None:
    """Sample the steps of windows from the states before them; what is true goes into the batch."""
    requests = [one.number for one, steps in windows for _ in steps]
    flat = [step for _, steps in windows for step in steps]
    sampled = batch.sample(hidden, requests, flat, noise.of(requests, flat)).tolist()
    first, kept = 0, list[int]()
    for one, steps in windows:
        count = one.accept(steps, sampled[first : first + len(steps)])
        kept += range(first, first + count)
        first += len(steps)
    places = [flat[i] for i in kept], [requests[i] for i in kept]
    batch.tokens[places] = torch.tensor([sampled[i] for i in kept], device=batch.tokens.device)


STRATEGIES: dict[Decoding, Strategy] = {"auto": auto, "sequential": sequential, "jacobi": jacobi}
