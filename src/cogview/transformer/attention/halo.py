"""Local attention in linear time and memory, by tiles with halos.

For each tile, its queries and the keys in the tile and its halo are gathered. The scores of a few tiles share
one buffer of about ``SCORES`` elements, which is written, exponentiated and read while it is in the core's
cache; nothing else is stored. The backward pass recomputes the scores from each row's logsumexp (Dao et al.,
FlashAttention-2, section 3.1). Exponentials use base 2, which is faster.

It runs on any device; on a GPU ``local.py`` uses FlexAttention instead.
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

SCORES = 1 << 16  # in the buffer of each thread: a quarter of a megabyte
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
        key, value: (b, heads, n, d), the sequence that the layout's key indices refer to.
        hidden: bool (b, shared), which of the shared keys are masked.
        dropout: dropout probability; the seed is sampled from torch's global generator.
        scale: scale of the scores, by default 1 / sqrt(d).

    Returns:
        (b, heads, rows * columns, d), in the query's dtype; half precision is computed in float32.
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
    """Dropout factors, buffer after buffer; the same sequence in the forward and the backward pass."""

    def __init__(self, p: float, seed: int, device: torch.device) -> None:
        self.p, self.generator = p, torch.Generator(device).manual_seed(seed)

    def next(self, like: Tensor) -> Tensor:
        """0 where a probability is dropped, 1 / (1 - p) where it is kept."""
        keep = torch.empty_like(like).bernoulli_(1 - self.p, generator=self.generator)
        return keep.div_(1 - self.p)


class Part:
    """A few tiles of one head: indices of their queries and keys, and their scores."""

    def __init__(self, plan: Tiles, selected: slice) -> None:
        self.queries, self.keys = plan.queries[selected].flatten(), plan.keys[selected].flatten()
        self.bias, self.real = plan.bias[selected], None if plan.inside else plan.real[selected]
        self.shape = self.bias.shape  # (n, q, k)

    def of_queries(self, x: Tensor) -> Tensor:
        """Rows of x (queries, d) as (n, q, d)."""
        return x.index_select(0, self.queries).view(*self.shape[:2], -1)

    def of_keys(self, x: Tensor) -> Tensor:
        """Rows of x (keys, d) as (n, k, d)."""
        return x.index_select(0, self.keys).view(self.shape[0], self.shape[2], -1)

    def scores(self, query: Tensor, key: Tensor, factor: float, hidden: Tensor | None) -> Tensor:
        """(n, q, k): query x key x factor, -inf where a key is hidden."""
        scores = torch.baddbmm(self.bias.to(query.dtype), query, key.mT, alpha=factor)
        if hidden is not None:
            scores[..., : len(hidden)].masked_fill_(hidden, -torch.inf)
        return scores


def _parts(plan: Tiles) -> list[Part]:
    """All tiles, in groups that fit in the cache."""
    count, queries, keys = plan.bias.shape
    threads = torch.get_num_threads() if plan.bias.device.type == "cpu" else 64
    size = max(1, SCORES * threads // (queries * keys))
    return [Part(plan, slice(first, first + size)) for first in range(0, count, size)]


def _heads(hidden: Tensor | None, *tensors: Tensor) -> Iterator[tuple[Tensor | None, list[Tensor]]]:
    """Each head of each row of tensors (b, heads, n, d) as (n, d), with the row's hidden keys."""
    for row in range(len(tensors[0])):
        for head in range(tensors[0].shape[1]):
            yield None if hidden is None else hidden[row], [x[row, head] for x in tensors]


class HaloAttention(torch.autograd.Function):
    """The autograd function; tensors (b, heads, n, d) of float32 or float64."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        plan: Tiles,
        hidden: Tensor | None,
        scale: float,
        p: float,
        seed: int,
    ) -> Tensor:
        out = query.new_empty(query.shape)
        total = query.new_empty(*query.shape[:3], 1)  # logsumexp of each row, to base 2
        dropout = Dropout(p, seed, query.device) if p else None
        parts = _parts(plan)
        for hidden_keys, (q, k, v, o, t) in _heads(hidden, query, key, value, out, total):
            for part in parts:
                scores = part.scores(part.of_queries(q), part.of_keys(k), scale * BASE2, hidden_keys)
                largest = scores.amax(-1, keepdim=True)
                sums = scores.sub_(largest).exp2_().sum(-1, keepdim=True)
                if dropout:
                    scores.mul_(dropout.next(scores))
                attended = torch.bmm(scores, part.of_keys(v)).div_(sums)
                o.index_copy_(0, part.queries, attended.flatten(0, 1))
                t.index_copy_(0, part.queries, sums.log2_().add_(largest).flatten(0, 1))
        ctx.save_for_backward(query, key, value, out, total, hidden)
        ctx.plan, ctx.scale, ctx.p, ctx.seed = plan, scale, p, seed
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, hidden = ctx.saved_tensors
        grads = query.new_empty(query.shape), key.new_zeros(key.shape), value.new_zeros(value.shape)
        shift = (grad * out).sum(-1, keepdim=True)
        dropout = Dropout(ctx.p, ctx.seed, query.device) if ctx.p else None
        parts = _parts(ctx.plan)
        heads = _heads(hidden, query, key, value, grad, total, shift, *grads)
        with no_autocast(grad.device):
            for hidden_keys, (q, k, v, g, t, s, *to) in heads:
                for part in parts:
                    _backward(part, (q, k, v), g, t, s, to, ctx.scale, hidden_keys, dropout)
        return *grads, None, None, None, None, None


def _backward(
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
    """Write the gradient of a part's queries to ``to[0]``, add those of its keys and values to the others."""
    query, (key, value) = part.of_queries(inputs[0]), map(part.of_keys, inputs[1:])
    grads = part.of_queries(grad)
    weights = part.scores(query, key, scale * BASE2, hidden).sub_(part.of_queries(total)).exp2_()
    if part.real is not None:
        weights.mul_(part.real)  # counts a repeated query once
    d_scores = torch.bmm(grads, value.mT)
    if dropout:
        keep = dropout.next(d_scores)
        d_scores.mul_(keep)
    d_scores.sub_(part.of_queries(shift)).mul_(weights).mul_(scale)
    if dropout:
        weights.mul_(keep)
    d_query = torch.bmm(d_scores, key)
    if part.real is None:
        to[0].index_copy_(0, part.queries, d_query.flatten(0, 1))
    else:
        real = part.real.flatten()
        to[0].index_copy_(0, part.queries[real], d_query.flatten(0, 1)[real])
    to[1].index_add_(0, part.keys, torch.bmm(d_scores.mT, query).flatten(0, 1))
    to[2].index_add_(0, part.keys, torch.bmm(weights.mT, grads).flatten(0, 1))
