"""Attention over short sequences in half precision on a CPU, forward and backward, some heads at a time.

PyTorch's fused kernel for CPUs gains nothing from bfloat16 instructions, least of all in its backward pass.
Up to a few hundred tokens the scores of some heads fit into the cache, so the products can be plain ones,
which is faster (``benchmarks/peer_training.py --precision bf16``). Scores and their softmax are float32, as
in the fused kernel; what is kept for the backward pass are the weights in half precision, heads x length x
length numbers a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogview.transformer.attention.pattern import View, exactly
from cogview.transformer.processor import multiplies_bf16

LONGEST = 512  # tokens; beyond, the weights that are kept grow larger than all else in a layer
SCORES = 1 << 18  # at a time for each thread: a megabyte


def suits(query: Tensor, key: Tensor, dropout: float) -> bool:
    """Whether :func:`attend` is the faster way: to train in bfloat16 on a CPU, on whole, short sequences."""
    return (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and torch.is_grad_enabled()
        and query.requires_grad
        and not dropout
        and query.shape == key.shape
        and query.shape[2] <= LONGEST
        and multiplies_bf16()
    )


def attend(query: Tensor, key: Tensor, value: Tensor, view: View) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v over what the view allows; all (b, heads, n, d) bfloat16."""
    mask = view.additive(torch.float32)
    if view.causal:
        length = query.shape[2]
        mask = torch.full((1, 1, length, length), -torch.inf, device=query.device).triu_(1)
    out: Tensor = _run(query, key, value, mask)
    return out


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _run(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Any:
    with exactly(query.device):
        return cast(Callable[..., Tensor], ShortAttention.apply)(query, key, value, mask)


def _parts(query: Tensor, mask: Tensor | None) -> Iterator[tuple[int, slice, Tensor | None]]:
    """Rows and heads that are computed together, and what is added to their scores (1 or heads, n, n)."""
    batch, heads, length, _ = query.shape
    size = max(1, SCORES * torch.get_num_threads() // length**2)
    for row in range(batch):
        for first in range(0, heads, size):
            some = slice(first, first + size)
            if mask is None:
                yield row, some, None
                continue
            own = mask[row if len(mask) > 1 else 0]
            yield row, some, own[some] if len(own) > 1 else own


def _scores(query: Tensor, key: Tensor, scale: float, added: Tensor | None) -> Tensor:
    """float32 scores (heads, n, n) of bfloat16 queries and keys (heads, n, d)."""
    zero = added if added is not None else query.new_zeros((), dtype=torch.float32)
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16"  # exact here: the factors are bfloat16 numbers, only the sums are not
    try:
        return torch.baddbmm(zero, query.float(), key.float().mT, beta=int(added is not None), alpha=scale)
    finally:
        settings.fp32_precision = before


class ShortAttention(torch.autograd.Function):
    """The function and its gradient; the mask is float32, broadcastable to (b, heads, n, n)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        out, length = torch.empty_like(query), query.shape[2]
        weights = query.new_empty(*query.shape[:3], length)
        scale = 1 / math.sqrt(query.shape[3])
        for row, heads, added in _parts(query, mask):
            weights[row, heads] = _scores(query[row, heads], key[row, heads], scale, added).softmax(-1)
            torch.bmm(weights[row, heads], value[row, heads], out=out[row, heads])
        ctx.save_for_backward(query, key, value, weights, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, weights, out = ctx.saved_tensors
        slopes = tuple(torch.empty_like(x) for x in (query, key, value))
        scale = 1 / math.sqrt(query.shape[3])
        with exactly(grad.device):
            for row, heads, _ in _parts(query, None):
                q, k, v, w, o, g = (x[row, heads] for x in (query, key, value, weights, out, grad))
                shift = (g.float() * o.float()).sum(-1, keepdim=True)
                slope = torch.bmm(g, v.mT).float().sub_(shift).mul_(w).mul_(scale).to(q.dtype)
                torch.bmm(slope, k, out=slopes[0][row, heads])
                torch.bmm(slope.mT, q, out=slopes[1][row, heads])
                torch.bmm(w.mT, g, out=slopes[2][row, heads])
        return *slopes, None
