"""Attention for training on short sequences in bfloat16 on a CPU, forward and backward, in plain products.

PyTorch's fused kernel for CPUs gains little from bfloat16 instructions, least of all in its backward pass.
Up to a few hundred tokens, batched products of all heads and some rows at a time are faster
(``benchmarks/training_step.py``). A causal sequence is cut into blocks of queries, and the keys after a block
are left out. The softmax computes in float32; scores and weights are stored as bfloat16, and the weights are
kept for the backward pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogview.tensors import no_autocast
from cogview.transformer.attention.pattern import View
from cogview.transformer.processor import multiplies_bf16
from cogview.transformer.uncompiled import uncompiled

LONGEST = 512  # tokens; beyond, the weights that are kept grow larger than all else in a layer
QUERIES = 96  # of a causal sequence in one product
SCORES = 1 << 20  # at a time for each thread: two megabytes


class Block(NamedTuple):
    """Queries from ``start`` to ``stop``, and how many keys they see at most."""

    start: int
    stop: int
    seen: int


def suits(qkv: Tensor, view: View, dropout: float) -> bool:
    """Whether :func:`attend` is the faster way: training in bfloat16 on a CPU, on whole, short sequences."""
    return (
        qkv.dtype == torch.bfloat16
        and qkv.device.type == "cpu"
        and torch.is_grad_enabled()
        and qkv.requires_grad
        and not dropout
        and qkv.shape[1] <= LONGEST
        and view.kernel is None
        and view.bias is None
        and multiplies_bf16()
    )


@uncompiled
def attend(qkv: Tensor, heads: int, view: View) -> Tensor:
    """softmax(q k / sqrt(d)) v over what the view allows.

    qkv: (b, n, 3 h) bfloat16, queries, keys and values of all heads one after the other. Returns (b, n, h).
    """
    length, mask = qkv.shape[1], view.additive(torch.bfloat16)
    if view.causal:
        blocks = list(_causal_blocks(length))
        hidden = torch.full((length, length), -torch.inf, dtype=torch.bfloat16).triu_(1)
        masks: list[Tensor | None] = [hidden[start:stop, :seen] for start, stop, seen in blocks]
    else:
        blocks, masks = [Block(0, length, length)], [mask]
    with no_autocast(qkv.device):
        return cast(Callable[..., Tensor], ShortAttention.apply)(qkv, heads, blocks, masks)


def _causal_blocks(length: int) -> Iterator[Block]:
    """Blocks of about ``QUERIES`` queries, of like size."""
    count = max(1, round(length / QUERIES))
    edges = [round(length * number / count) for number in range(count + 1)]
    for start, stop in itertools.pairwise(edges):
        yield Block(start, stop, stop)


def _parts(batch: int, heads: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Rows and heads computed together: some heads of a row, or all of some rows. scores: of one head."""
    size = max(1, SCORES * torch.get_num_threads() // scores)
    rows, some = max(1, size // heads), min(size, heads)
    for row in range(0, batch, rows):
        for first in range(0, heads, some):
            yield slice(row, row + rows), slice(first, first + some)


def _added(mask: Tensor | None, rows: slice, some: slice, like: Tensor) -> tuple[Tensor, int]:
    """What is added to the scores, broadcastable to (rows * heads, queries, keys), and its factor."""
    if mask is None:
        return like.new_zeros(()), 0
    if mask.dim() == 2 or mask.shape[:2] == (1, 1):
        return mask.view(mask.shape[-2:]), 1
    own = mask[rows if len(mask) > 1 else slice(None), some if mask.shape[1] > 1 else slice(None)]
    return own.expand(*like.shape[:2], -1, -1).flatten(0, 1), 1


class ShortAttention(torch.autograd.Function):
    """The function and its gradient; masks hold 0 and -inf and are broadcastable to (b, heads, n, n)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, blocks: list[Block], masks: list[Tensor | None]) -> Tensor:
        batch, length, _ = qkv.shape
        split = (
            qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        )  # (3, b, heads, n, d)
        query, key, value = split.unbind()
        out, scale = torch.empty_like(query), 1 / math.sqrt(query.shape[3])
        weights = [query.new_empty(batch, heads, stop - start, seen) for start, stop, seen in blocks]
        for rows, some in _parts(batch, heads, weights[-1][0, 0].numel()):
            q, k, v, o = (x[rows, some].flatten(0, 1) for x in (query, key, value, out))
            for (start, stop, seen), mask, kept in zip(blocks, masks, weights, strict=True):
                added, factor = _added(mask, rows, some, kept[rows, some])
                scores = torch.baddbmm(added, q[:, start:stop], k[:, :seen].mT, beta=factor, alpha=scale)
                w = torch.softmax(scores, -1, out=kept[rows, some].flatten(0, 1))
                torch.bmm(w, v[:, :seen], out=o[:, start:stop])
        ctx.save_for_backward(query, key, value, *weights)
        ctx.blocks = blocks
        return out.transpose(1, 2).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        batch, heads, length, width = query.shape
        grad = grad.view(batch, length, heads, width).transpose(1, 2).contiguous()
        slopes, scale = query.new_empty(3, *query.shape), 1 / math.sqrt(width)
        with no_autocast(grad.device):
            for rows, some in _parts(batch, heads, weights[-1][0, 0].numel()):
                q, k, v, g = (x[rows, some].flatten(0, 1) for x in (query, key, value, grad))
                dq, dk, dv = (x[rows, some].flatten(0, 1) for x in slopes.unbind())
                for (start, stop, seen), kept in reversed(list(zip(ctx.blocks, weights, strict=True))):
                    w, own, fresh = kept[rows, some].flatten(0, 1), g[:, start:stop], int(stop < length)
                    slope = torch.bmm(own, v[:, :seen].mT)
                    slope = torch._softmax_backward_data(slope, w, -1, w.dtype)
                    _product(dq[:, start:stop], slope, k[:, :seen], 0, scale)
                    _product(dk[:, :seen], slope.mT, q[:, start:stop], fresh, scale)
                    _product(dv[:, :seen], w.mT, own, fresh, 1.0)
        return slopes.permute(1, 3, 0, 2, 4).reshape(batch, length, -1), None, None, None


def _product(out: Tensor, left: Tensor, right: Tensor, beta: int, alpha: float) -> None:
    """out = beta out + alpha left right."""
    torch.baddbmm(out, left, right, beta=beta, alpha=alpha, out=out)
