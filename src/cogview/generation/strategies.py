"""Decoding strategies: token by token, or several tokens in one forward; both generate the same tokens.

Noise is a function of (seed, image, step, token), so sampling is a deterministic map: each token is a
function of those before it. Jacobi iteration finds its fixed point (Wiggers and Hoogeboom, *Predictive
Sampling with Forecasting Autoregressive Models*, ICML 2020; *Speculative Coupled Decoding*, arXiv
2510.24211). A window of guesses is read in one forward and each position is sampled with its own noise;
tokens that were sampled after correct tokens only are correct. So each forward yields at least one token, and
all up to the first wrong guess; the rest are better guesses for the next window.

Requests accept different numbers of tokens, so each has its own window and its own offset in the cache. On a
GPU most batches are decoded in windows of one shape by ``static_windows.py``, without synchronizing with the
host between steps.
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

SMALL_EXACT = {"int8": 2}  # as SMALL, if attention is computed for each query separately, by precision
TOKENS = {"cpu": 32, "cuda": 256}  # read in one forward, over all rows; other devices as the CPU
MOST = {"cpu": 16, "cuda": 32}  # largest window of one request
CHECK = {"cuda": 16}  # steps between checks whether all texts have ended, which synchronize with the device


def auto(batch: Batch, on_step: OnStep) -> None:
    """Jacobi decoding for small batches, sequential decoding for others.

    Random attention patterns require sequential decoding.
    """
    most = SMALL_EXACT.get(batch.decoder.precision, 0) if batch.exact else SMALL
    small = len(batch.hidden) <= most and not batch.ordered
    (jacobi if small else sequential)(batch, on_step)


def sequential(batch: Batch, on_step: OnStep) -> None:
    """Decode token by token; runs of known tokens are read in one forward."""
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
    """Decode in windows of guesses, which are sampled again until they are correct."""
    if batch.tokens.is_cuda and suits(batch):
        return windowed(batch, on_step, _size(batch, batch.requests))
    after = batch.next_tokens.after if batch.next_tokens else None
    requests = [
        Guesses(number, batch.tokens[:, number].tolist(), batch.stop, after)
        for number in range(batch.requests)
    ]
    noise, known = Noise(batch), 0
    ready = [one for one in requests if one.open[:1] == [0]]
    if ready:  # the first token follows the prompt, which has been read
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
    """The window size of each request: a forward up to this size costs little more than one of one token."""
    tokens, most = (limits.get(batch.tokens.device.type, limits["cpu"]) for limits in (TOKENS, MOST))
    rows, known = requests * (1 + batch.guided), batch.next_tokens is not None
    return window_size(rows, batch.stop is not None, tokens, most, known)


Window = tuple[Guesses, list[int]]  # a request, and its next steps to sample


class Noise:
    """Noise of a batch, computed once for each step and cached while windows contain the step."""

    def __init__(self, batch: Batch) -> None:
        self.streams, self.columns = batch.noise, batch.columns
        self.cached: dict[tuple[int, int], Tensor] = {}

    def of(self, requests: Sequence[int], steps: Sequence[int]) -> Tensor:
        """Noise (m, v) of the requests at these steps."""
        keys = list(zip(requests, steps, strict=True))
        new = [key for key in keys if key not in self.cached]
        if new:
            noise = self.streams.gumbel_of([r for r, _ in new], [s for _, s in new], self.columns)
            self.cached |= dict(zip(new, noise, strict=True))
        self.cached = {key: self.cached[key] for key in keys}
        return torch.stack(list(self.cached.values()))


def _read(batch: Batch, windows: Sequence[Window]) -> Tensor:
    """Read windows in one forward; returns the states (m, h) before the steps to sample, with guidance
    (2m, h)."""
    ids, positions, segments = list[int](), list[Tensor](), list[Segment]()
    before: list[list[int]] = [[] for _ in range(1 + batch.guided)]
    visibility, filled = batch.visibility or Causal(), batch.cache.length
    for one, steps in windows:
        rows, first, end = batch.rows(one.number), one.read, steps[-1]
        for indices in before:
            indices += [len(ids) + step - 1 - first for step in steps]
            ids += one.tokens[first:end]
        positions.append(batch.positions[first:end, rows].T.flatten())
        segments.append(
            segment(batch.decoder, batch.cache, visibility, end - first, batch.exact, rows, filled + first)
        )
    flat, outputs = (torch.tensor(x, device=batch.tokens.device) for x in (ids, [*itertools.chain(*before)]))
    return read_segments(batch.decoder, flat, torch.cat(positions), batch.cache, segments, outputs)


def _sample(batch: Batch, noise: Noise, hidden: Tensor, windows: Sequence[Window]) -> None:
    """Sample the steps of windows from the states before them; accepted tokens are stored in the batch."""
    requests = [one.number for one, steps in windows for _ in steps]
    flat = [step for _, steps in windows for step in steps]
    sampled = batch.sample(hidden, requests, flat, noise.of(requests, flat)).tolist()
    first, accepted = 0, list[int]()
    for one, steps in windows:
        count = one.accept(steps, sampled[first : first + len(steps)])
        accepted += range(first, first + count)
        first += len(steps)
    places = [flat[i] for i in accepted], [requests[i] for i in accepted]
    batch.tokens[places] = torch.tensor([sampled[i] for i in accepted], device=batch.tokens.device)


STRATEGIES: dict[Decoding, Strategy] = {"auto": auto, "sequential": sequential, "jacobi": jacobi}
