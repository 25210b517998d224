"""Decoding in windows of one size, all on the device: on a GPU one CUDA graph holds a whole step.

A step reads a window of tokens in every row, samples the token after each with its own noise, and accepts
those that follow true tokens only, as ``strategies.py`` says; a window of one token is decoding token by
token. What differs is where the numbers are: every buffer keeps its place and its shape, and how far a
request has come is a tensor, so that a step can be captured once and replayed. Attention reads the cache up
to a multiple of ``SPAN`` tokens; each such length has a graph of its own, in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cogview.generation.decoder import read_window
from cogview.generation.loop import Batch, OnStep
from cogview.transformer.attention import LeftPadded

SPAN = 256  # keys that attention may read in vain, so that few graphs are captured
WARM = 3  # steps before the first graph, in which libraries allocate what they keep


def suits(batch: Batch) -> bool:
    """Whether steps of one shape give the batch's tokens: neither logits nor attention are changed by the
    step, and no end is waited for. The bits of ``exact`` are those of other operations."""
    plain = batch.visibility is None or isinstance(batch.visibility, LeftPadded)
    return plain and batch.filter is None and batch.stop is None and not batch.exact and len(batch.tokens) > 1


def windowed(batch: Batch, on_step: OnStep, size: int) -> None:
    """Decode a batch that :func:`suits` in windows of ``size`` tokens, on a GPU as CUDA graphs.

    The loop waits for the device only to learn how many tokens were accepted, so with a window of one never.
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
    """Read the tokens before the first that any request is to generate, and return its number."""
    is_open = (batch.tokens < 0).any(1).tolist()
    first: int = is_open.index(True) if True in is_open else len(is_open)
    if 0 < first < len(is_open):
        batch.read(0, first)
    return first


class Window:
    """The buffers of a batch and the step over them.

    at: (requests,) int64, true tokens of each request; tokens: (requests, n), true ones, then guesses, a view
    of the batch's. The cache holds what was read of both; what is wrong is written over before it is seen.
    """

    def __init__(self, batch: Batch, first: int, size: int) -> None:
        self.batch, self.size = batch, size
        self.base = batch.cache.length - first  # tokens of the prompt
        batch.cache.entries[..., batch.cache.length :, :] = 0  # hidden, but 0 times what is no number is none
        self.tokens, self.positions = batch.tokens.T, batch.positions.T.contiguous()
        self.known, device = self.tokens >= 0, batch.tokens.device
        self.offsets = torch.arange(size, device=device)
        self.steps = torch.arange(len(batch.tokens), device=device)
        self.requests = torch.arange(batch.requests, device=device)[:, None]
        self.places = torch.arange(batch.cache.capacity, device=device)
        pattern = batch.visibility  # (rows or 1, capacity), what is added to the scores of each key:
        self.hidden = (
            pattern.hidden
            if isinstance(pattern, LeftPadded)
            else self.places.new_zeros(1, len(self.places), dtype=torch.float32)
        )
        self.at = torch.full((batch.requests,), first + 1, device=device)
        self._begin(first)

    def _begin(self, first: int) -> None:
        """Sample the token that follows the prompt; it is the first guess for all others, too."""
        noise = self.batch.noise.gumbel(first, self.batch.columns)
        sampled = self.batch.sample(self.batch.hidden, (), (), noise)
        guess = torch.where(self.known[:, first], self.tokens[:, first], sampled)
        self.tokens.copy_(torch.where(self.known, self.tokens, guess[:, None]))

    def keys(self, farthest: int) -> int:
        """Tokens of the cache that a step reads when no request has come farther."""
        needed = self.base + min(farthest - 1 + self.size, len(self.batch.tokens) - 1)
        return min(-(-needed // SPAN) * SPAN, len(self.places))

    def step(self, keys: int) -> None:
        """Read a window of every request, and the cache's first ``keys`` tokens; sample, accept, guess."""
        # A window at the end begins with tokens that are true already, so that it is full.
        start = (self.at - 1).clamp(max=len(self.steps) - 1 - self.size)
        read = start[:, None] + self.offsets  # (requests, size)
        steps = read + 1
        guesses = self.tokens.gather(1, steps)
        settled = self.known.gather(1, steps) | (steps < self.at[:, None])
        sampled = torch.where(settled, guesses, self._sample(read, steps, keys))
        right = (sampled == guesses)[:, :-1].cumprod(1).sum(1)
        self.at.copy_(start + 2 + right)
        self.tokens.scatter_(1, steps, sampled)
        fresh = (self.steps > steps[:, -1:]) & ~self.known
        self.tokens.copy_(torch.where(fresh, sampled[:, -1:], self.tokens))

    def _sample(self, read: Tensor, steps: Tensor, keys: int) -> Tensor:
        """The tokens (requests, size) at ``steps``, after those at ``read``."""
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
        """:meth:`Window.step`."""
        if self.cold:
            self.cold -= 1
            return self.window.step(keys)
        if keys not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool):  # nothing is computed yet
                self.window.step(keys)
            self.graphs[keys] = graph
        self.graphs[keys].replay()
