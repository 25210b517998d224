"""Attention for training on short sequences in bfloat16 on a CPU, with batched matrix products.

PyTorch's fused CPU kernel gains little from bfloat16 instructions, least of all in its backward pass. Up to a
few hundred tokens, batched products over some rows and heads at a time are faster
(``benchmarks/training_step.py``). A causal sequence is split into blocks of queries, and the keys after a
block are skipped. The softmax computes in float32; scores and weights are stored as bfloat16, and the weights
are saved for the backward pass.
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

LONGEST = 512  # tokens; beyond, the saved attention weights exceed all other activations of a layer
QUERIES = 96  # of a causal sequence in one product
SCORES = 1 << 20  # at a time per thread: two megabytes


class QueryBlock(NamedTuple):
    """Queries from ``start`` to ``stop``, and the maximum number of keys they see."""

    start: int
    stop: int
    seen: int


def is_faster(qkv: Tensor, view: View, dropout: float) -> bool:
    """Whether :func:`attend` is faster: for training in bfloat16 on a CPU, on complete short sequences."""
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
    """softmax(q k / sqrt(d)) v with the view's mask.

    qkv: (b, n, 3 h) bfloat16, queries, keys and values of all heads, concatenated. Returns (b, n, h).
    """
    length, mask = qkv.shape[1], view.additive(torch.bfloat16)
    if view.causal:
        blocks = list(_causal_blocks(length))
        hidden = torch.full((length, length), -torch.inf, dtype=torch.bfloat16).triu_(1)
        masks: list[Tensor | None] = [hidden[start:stop, :seen] for start, stop, seen in blocks]
    else:
        blocks, masks = [QueryBlock(0, length, length)], [mask]
    with no_autocast(qkv.device):
        return cast(Callable[..., Tensor], ShortAttention.apply)(qkv, heads, blocks, masks)


def _causal_blocks(length: int) -> Iterator[QueryBlock]:
    """Blocks of about ``QUERIES`` queries, of similar size."""
    count = max(1, round(length / QUERIES))
    edges = [round(length * number / count) for number in range(count + 1)]
    for start, stop in itertools.pairwise(edges):
        yield QueryBlock(start, stop, stop)


def _parts(batch: int, heads: int, scores: int) -> Iterator[tuple[slice, slice]]:
    """Rows and heads computed together: some heads of a row, or all heads of some rows.

    scores: number of scores of one head.
    """
    size = max(1, SCORES * torch.get_num_threads() // scores)
    row_count, head_count = max(1, size // heads), min(size, heads)
    for row in range(0, batch, row_count):
        for head in range(0, heads, head_count):
            yield slice(row, row + row_count), slice(head, head + head_count)


def _additive(mask: Tensor | None, rows: slice, heads: slice, like: Tensor) -> tuple[Tensor, int]:
    """The mask to add to the scores, broadcastable to (rows * heads, queries, keys), and its factor."""
    if mask is None:
        return like.new_zeros(()), 0
    if mask.dim() == 2 or mask.shape[:2] == (1, 1):
        return mask.view(mask.shape[-2:]), 1
    part = mask[rows if len(mask) > 1 else slice(None), heads if mask.shape[1] > 1 else slice(None)]
    return part.expand(*like.shape[:2], -1, -1).flatten(0, 1), 1


class ShortAttention(torch.autograd.Function):
    """The autograd function; masks contain 0 and -inf and are broadcastable to (b, heads, n, n)."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, heads: int, blocks: list[QueryBlock], masks: list[Tensor | None]
    ) -> Tensor:
        batch, length, _ = qkv.shape
        split = (
            qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).contiguous()
        )  # (3, b, heads, n, d)
        query, key, value = split.unbind()
        out, scale = torch.empty_like(query), 1 / math.sqrt(query.shape[3])
        weights = [query.new_empty(batch, heads, stop - start, seen) for start, stop, seen in blocks]
        for part in _parts(batch, heads, weights[-1][0, 0].numel()):
            q, k, v, o = (x[part].flatten(0, 1) for x in (query, key, value, out))
            for (start, stop, seen), mask, saved in zip(blocks, masks, weights, strict=True):
                added, factor = _additive(mask, *part, saved[part])
                scores = torch.baddbmm(added, q[:, start:stop], k[:, :seen].mT, beta=factor, alpha=scale)
                w = torch.softmax(scores, -1, out=saved[part].flatten(0, 1))
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
        grads, scale = query.new_empty(3, *query.shape), 1 / math.sqrt(width)
        with no_autocast(grad.device):
            for part in _parts(batch, heads, weights[-1][0, 0].numel()):
                q, k, v, g = (x[part].flatten(0, 1) for x in (query, key, value, grad))
                dq, dk, dv = (x[part].flatten(0, 1) for x in grads.unbind())
                for (start, stop, seen), saved in reversed(list(zip(ctx.blocks, weights, strict=True))):
                    w, g_block = saved[part].flatten(0, 1), g[:, start:stop]
                    accumulate = int(stop < length)
                    d_scores = torch.bmm(g_block, v[:, :seen].mT)
                    d_scores = torch._softmax_backward_data(d_scores, w, -1, w.dtype)
                    _product(dq[:, start:stop], d_scores, k[:, :seen], 0, scale)
                    _product(dk[:, :seen], d_scores.mT, q[:, start:stop], accumulate, scale)
                    _product(dv[:, :seen], w.mT, g_block, accumulate, 1.0)
        return grads.permute(1, 3, 0, 2, 4).reshape(batch, length, -1), None, None, None


def _product(out: Tensor, left: Tensor, right: Tensor, beta: int, alpha: float) -> None:
    """out = beta out + alpha left right."""
    torch.baddbmm(out, left, right, beta=beta, alpha=alpha, out=out)
