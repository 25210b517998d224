"""Decoding in windows of fixed size, entirely on the device: on a GPU each step is one CUDA graph.

A step reads a window of tokens in every row, samples the token after each with its own noise, and accepts
those that follow correct tokens only, as in ``strategies.py``; a window of one token is sequential decoding.
All buffers have a fixed address and shape, and the progress of each request is a tensor, so that a step can
be captured once and replayed. Attention reads the cache up to a multiple of ``SPAN`` tokens; there is one
graph for each such length, in a shared memory pool.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cogview.generation.decoder import read_window
from cogview.generation.loop import Batch, OnStep
from cogview.transformer.attention import LeftPadded

SPAN = 256  # granularity of the number of keys: larger means fewer graphs and more masked keys
WARM = 3  # eager steps before the first capture, in which libraries allocate their workspaces


def suits(batch: Batch) -> bool:
    """Whether a batch can be decoded by steps of one shape: it has no filter, no special attention pattern
    and no stop token. ``exact`` batches need other operations for the same bits."""
    plain = batch.visibility is None or isinstance(batch.visibility, LeftPadded)
    return plain and batch.filter is None and batch.stop is None and not batch.exact and len(batch.tokens) > 1


def windowed(batch: Batch, on_step: OnStep, size: int) -> None:
    """Decode a batch that :func:`suits` in windows of ``size`` tokens, on a GPU with CUDA graphs.

    The loop synchronizes with the device only to read the number of accepted tokens, so with a window of one
    never.
    """
    count, first = len(batch.tokens), _read_known(batch)
    if first == count:
        return on_step(count, batch.tokens)
    window = Window(batch, first, min(size, count - 1))
    run: Callable[[int], None] = Graphs(window) if torch.cuda.is_available() else window.step
    known = farthest = first + 1
    on_step(known, batch.tokens)
    while known < count:
        run(window.keys(farthest))
        if window.size == 1:
            known = farthest = known + 1
        else:
            known, farthest = torch.stack(window.at.aminmax()).tolist()
        on_step(known, batch.tokens)


def _read_known(batch: Batch) -> int:
    """Read the tokens before the first step that any request has to generate; returns that step."""
    is_open = (batch.tokens < 0).any(1).tolist()
    first: int = is_open.index(True) if True in is_open else len(is_open)
    if 0 < first < len(is_open):
        batch.read(0, first)
    return first


class Window:
    """The buffers of a batch and the decoding step over them.

    at: (requests,) int64, number of correct tokens of each request; tokens: (requests, n), correct tokens
    followed by guesses, a view of the batch's tokens. Wrong guesses in the cache are overwritten before any
    token attends to them.
    """

    def __init__(self, batch: Batch, first: int, size: int) -> None:
        self.batch, self.size = batch, size
        self.base = batch.cache.length - first  # length of the prompt
        batch.cache.entries[..., batch.cache.length :, :] = 0  # masked, but 0 * NaN would be NaN
        self.tokens, self.positions = batch.tokens.T, batch.positions.T.contiguous()
        self.known, device = self.tokens >= 0, batch.tokens.device
        self.offsets = torch.arange(size, device=device)
        self.steps = torch.arange(len(batch.tokens), device=device)
        self.requests = torch.arange(batch.requests, device=device)[:, None]
        self.places = torch.arange(batch.cache.capacity, device=device)
        pattern = batch.visibility
        self.hidden = (  # (rows or 1, capacity), added to the scores of each key
            pattern.hidden
            if isinstance(pattern, LeftPadded)
            else self.places.new_zeros(1, len(self.places), dtype=torch.float32)
        )
        self.at = torch.full((batch.requests,), first + 1, device=device)
        self._begin(first)

    def _begin(self, first: int) -> None:
        """Sample the token that follows the prompt; it is also the first guess for all others."""
        noise = self.batch.noise.gumbel(first, self.batch.columns)
        sampled = self.batch.sample(self.batch.hidden, (), (), noise)
        guess = torch.where(self.known[:, first], self.tokens[:, first], sampled)
        self.tokens.copy_(torch.where(self.known, self.tokens, guess[:, None]))

    def keys(self, farthest: int) -> int:
        """The number of keys that a step reads if no request has more than ``farthest`` tokens."""
        needed = self.base + min(farthest - 1 + self.size, len(self.batch.tokens) - 1)
        return min(-(-needed // SPAN) * SPAN, len(self.places))

    def step(self, keys: int) -> None:
        """Read a window of every request with the cache's first ``keys`` tokens; sample, accept and guess."""
        # The last window starts earlier, with known tokens, so that it has the full size.
        start = (self.at - 1).clamp(max=len(self.steps) - 1 - self.size)
        read = start[:, None] + self.offsets  # (requests, size)
        steps = read + 1
        guesses = self.tokens.gather(1, steps)
        final = self.known.gather(1, steps) | (steps < self.at[:, None])
        sampled = torch.where(final, guesses, self._sample(read, steps, keys))
        correct = (sampled == guesses)[:, :-1].cumprod(1).sum(1)
        self.at.copy_(start + 2 + correct)
        self.tokens.scatter_(1, steps, sampled)
        fresh = (self.steps > steps[:, -1:]) & ~self.known
        self.tokens.copy_(torch.where(fresh, sampled[:, -1:], self.tokens))

    def _sample(self, read: Tensor, steps: Tensor, keys: int) -> Tensor:
        """Sample the tokens (requests, size) at ``steps``, which follow those at ``read``."""
        batch, copies = self.batch, 1 + self.batch.guided
        rows = read.repeat(copies, 1)  # (rows, size)
        places = self.base + rows
        seen = self.places[:keys] <= places[..., None]  # (rows, size, keys)
        bias = torch.where(seen, self.hidden[:, None, :keys], -torch.inf)[:, None]
        ids = self.tokens.gather(1, read).repeat(copies, 1)
        positions = self.positions.gather(1, rows)
        hidden = read_window(batch.decoder, ids, positions, batch.cache, places, bias.to(batch.decoder.dtype))
        noise = batch.noise.gumbel_of(self.requests, steps, batch.columns)
        return batch.sample(hidden, (), (), noise.flatten(0, 1)).view(steps.shape)


class Graphs:
    """A window's steps as CUDA graphs, one for each number of keys."""

    def __init__(self, window: Window) -> None:
        self.window, self.cold = window, WARM
        self.pool = torch.cuda.graph_pool_handle()
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def __call__(self, keys: int) -> None:
        """Run :meth:`Window.step`, from its graph after the warm-up."""
        if self.cold:
            self.cold -= 1
            return self.window.step(keys)
        if keys not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):  # records without computing
                self.window.step(keys)
            self.graphs[keys] = graph
        self.graphs[keys].replay()
