"""Local attention in time and memory that grow with the image, not with its square.

Tile after tile, queries are gathered with the keys that they and their halo see. The scores of a few tiles
stand in one buffer of about ``SCORES`` numbers, which is written, exponentiated and read while it is in the
core's cache; nothing else is kept. The backward pass computes them again from the logarithm of each row's
sum (Dao et al., FlashAttention-2, section 3.1). Exponentials are to the base 2, which is faster.

It runs on any device; a GPU has FlexAttention for the same (``local.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogview.tensors import no_autocast
from cogview.transformer.attention.window import Layout, Tiles, tiles

SCORES = 1 << 16  # of a buffer for each thread: a quarter of a megabyte
BASE2 = 1 / math.log(2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    hidden: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Attention of the queries of an image through the windows of ``layout``.

    Args:
        query: (b, heads, rows * columns, d), the layout's queries in raster order.
        key, value: (b, heads, n, d), the sequence that the layout's keys are numbers of.
        hidden: bool (b, shared), which of the keys that all queries share are not seen after all.
        dropout: the part of the probabilities that is dropped; its draws follow torch's global generator.
        scale: of the scores, by default 1 / sqrt(d).

    Returns:
        (b, heads, rows * columns, d), of the query's dtype; half precision is computed in float32.
    """
    if query.dtype in (torch.float16, torch.bfloat16):
        query32, key, value = query.float(), key.float(), value.float()
        return attend(query32, key, value, layout, hidden=hidden, dropout=dropout, scale=scale).to(
            query.dtype
        )
    seed = int(torch.randint(1 << 62, ())) if dropout else 0
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    plan = tiles(layout, query.device)
    run = cast(Callable[..., Tensor], HaloAttention.apply)
    with no_autocast(query.device):
        return run(query, key, value, plan, hidden, factor, dropout, seed)


class Dropout:
    """What probabilities are multiplied by, buffer after buffer, the same forward and backward."""

    def __init__(self, chance: float, seed: int, device: torch.device) -> None:
        self.chance, self.generator = chance, torch.Generator(device).manual_seed(seed)

    def next(self, like: Tensor) -> Tensor:
        """Zeros, and 1 / (1 - chance) where a probability is kept."""
        keep = torch.empty_like(like).bernoulli_(1 - self.chance, generator=self.generator)
        return keep.div_(1 - self.chance)


class Part:
    """A few tiles of one head: their numbers, and the scores of their queries and keys."""

    def __init__(self, plan: Tiles, chosen: slice) -> None:
        self.queries, self.keys = plan.queries[chosen].flatten(), plan.keys[chosen].flatten()
        self.bias, self.real = plan.bias[chosen], None if plan.whole else plan.real[chosen]
        self.shape = self.bias.shape  # (n, q, k)

    def of_queries(self, x: Tensor) -> Tensor:
        """Rows of x (queries, d) as (n, q, d)."""
        return x.index_select(0, self.queries).view(*self.shape[:2], -1)

    def of_keys(self, x: Tensor) -> Tensor:
        """Rows of x (keys, d) as (n, k, d)."""
        return x.index_select(0, self.keys).view(self.shape[0], self.shape[2], -1)

    def scores(self, query: Tensor, key: Tensor, factor: float, hidden: Tensor | None) -> Tensor:
        """(n, q, k): query x key x factor, -inf where a key is not seen."""
        scores = torch.baddbmm(self.bias.to(query.dtype), query, key.mT, alpha=factor)
        if hidden is not None:
            scores[..., : len(hidden)].masked_fill_(hidden, -torch.inf)
        return scores


def _parts(plan: Tiles) -> list[Part]:
    """All tiles, as many at a time as the cache holds."""
    count, queries, keys = plan.bias.shape
    threads = torch.get_num_threads() if plan.bias.device.type == "cpu" else 64
    size = max(1, SCORES * threads // (queries * keys))
    return [Part(plan, slice(first, first + size)) for first in range(0, count, size)]


def _heads(hidden: Tensor | None, *tensors: Tensor) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """Each head of each row of tensors (b, heads, n, d) as (n, d), and what the row hides."""
    for row in range(len(tensors[0])):
        for head in range(tensors[0].shape[1]):
            yield None if hidden is None else hidden[row], [x[row, head] for x in tensors]


class HaloAttention(torch.autograd.Function):
    """The function and its gradient; tensors (b, heads, n, d), floats of 32 or 64 bits."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: Tiles,
        hidden: Tensor | None,
        scale: float,
        chance: float,
        seed: int,
    ) -> Tensor:
        out = query.new_empty(query.shape)
        total = query.new_empty(*query.shape[:3], 1)  # logarithm to the base 2 of each row's sum
        dropout = Dropout(chance, seed, query.device) if chance else None
        parts = _parts(plan)
        for veil, (q, k, v, o, t) in _heads(hidden, query, key, value, out, total):
            for part in parts:
                scores = part.scores(part.of_queries(q), part.of_keys(k), scale * BASE2, veil)
                largest = scores.amax(-1, keepdim=True)
                sums = scores.sub_(largest).exp2_().sum(-1, keepdim=True)
                if dropout:
                    scores.mul_(dropout.next(scores))
                attended = torch.bmm(scores, part.of_keys(v)).div_(sums)
                o.index_copy_(0, part.queries, attended.flatten(0, 1))
                t.index_copy_(0, part.queries, sums.log2_().add_(largest).flatten(0, 1))
        ctx.save_for_backward(query, key, value, out, total, hidden)
        ctx.plan, ctx.scale, ctx.chance, ctx.seed = plan, scale, chance, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, hidden = ctx.saved_tensors
        slopes = query.new_empty(query.shape), key.new_zeros(key.shape), value.new_zeros(value.shape)
        shift = (grad * out).sum(-1, keepdim=True)
        dropout = Dropout(ctx.chance, ctx.seed, query.device) if ctx.chance else None
        parts = _parts(ctx.plan)
        heads = _heads(hidden, query, key, value, grad, total, shift, *slopes)
        with no_autocast(grad.device):
            for veil, (q, k, v, g, t, s, *to) in heads:
                for part in parts:
                    _slopes(part, (q, k, v), g, t, s, to, ctx.scale, veil, dropout)
        return *slopes, None, None, None, None, None


def _slopes(
    part: Part,
    inputs: tuple[Tensor, Tensor, Tensor],
    grad: Tensor,
    total: Tensor,
    shift: Tensor,
    to: list[Tensor],
    scale: float,
    hidden: Tensor | None,
    dropout: Dropout | None,
) -> None:
    """Put a part's gradient by query in its place in ``to``, add those by key and value to theirs."""
    query, (key, value) = part.of_queries(inputs[0]), map(part.of_keys, inputs[1:])
    grads = part.of_queries(grad)
    weights = part.scores(query, key, scale * BASE2, hidden).sub_(part.of_queries(total)).exp2_()
    if part.real is not None:
        weights.mul_(part.real)  # the same query counts once
    slope = torch.bmm(grads, value.mT)
    if dropout:
        keep = dropout.next(slope)
        slope.mul_(keep)
    slope.sub_(part.of_queries(shift)).mul_(weights).mul_(scale)
    if dropout:
        weights.mul_(keep)
    d_query = torch.bmm(slope, key)
    if part.real is None:
        to[0].index_copy_(0, part.queries, d_query.flatten(0, 1))
    else:
        chosen = part.real.flatten()
        to[0].index_copy_(0, part.queries[chosen], d_query.flatten(0, 1)[chosen])
    to[1].index_add_(0, part.keys, torch.bmm(slope.mT, query).flatten(0, 1))
    to[2].index_add_(0, part.keys, torch.bmm(weights.mT, grads).flatten(0, 1))
