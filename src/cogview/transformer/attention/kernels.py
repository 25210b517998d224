"""The three ways to compute attention for a view: fused, written out (equation 4), and as released.

All take query (b, heads, q, d), key and value (b, heads, k, d) and return (b, heads, q, d). The last two
take dense views only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.transformer.attention.pattern import View

HIDDEN = -10000.0  # the released score of a hidden key


def fused(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """One kernel that keeps the scores in float32, so that they cannot overflow: eq. 4 changes nothing."""
    if view.kernel is not None:
        return view.kernel(query, key, value, dropout)
    mask = view.additive(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=view.causal)


def fused_in_parts(query: Tensor, key: Tensor, value: Tensor, views: Sequence[View]) -> Tensor:
    """:func:`fused` for one view; with a view for each query, each alone with the keys up to its own."""
    if len(views) == 1:
        return fused(query, key, value, views[0])
    count, length = len(views), key.shape[2]
    ends = range(length - count + 1, length + 1)
    found = [
        fused(query[:, :, i : i + 1], key[:, :, :end], value[:, :, :end], view)
        for i, (end, view) in enumerate(zip(ends, views, strict=True))
    ]
    return torch.cat(found, 2)


def written(
    query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0, alpha: float | None = None
) -> Tensor:
    """Scores in the tensors' own dtype; with ``alpha`` by equation 4, else only with the query scaled first.

    Equation 4: softmax((Q K / (alpha sqrt(d)) - max) alpha), the largest score taken off while the scores
    are still small. The paper's largest is a head's ("at least head-wise"); here it is each query's own among
    what it sees: else a query whose scores lie 65,504 below another's would have nothing left but -inf.
    """
    root = math.sqrt(query.shape[-1])
    if alpha is None:
        scores = (query / root) @ key.mT
    else:
        scores = (query / (alpha * root)) @ key.mT
        seen = scores.detach()
        if view.allowed is not None:
            seen = seen.masked_fill(~view.allowed, -torch.inf)
        scores = (scores - seen.amax(-1, keepdim=True)) * alpha
    if view.bias is not None:
        scores = scores + view.bias.to(scores.dtype)
    if view.allowed is not None:
        scores = scores.masked_fill(~view.allowed, -torch.inf)
    return F.dropout(scores.softmax(-1), dropout) @ value


def released(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """The released code's: the bias first, then ``scores * mask - 10000 * (1 - mask)`` in the model's dtype.

    A query that sees nothing attends to every key alike, where the other two have no answer.
    """
    scores = (query / math.sqrt(query.shape[-1])) @ key.mT
    if view.bias is not None:
        scores = scores + view.bias.to(scores.dtype)
    if view.allowed is not None:
        mask = view.allowed.to(scores.dtype)
        scores = scores * mask + HIDDEN * (1 - mask)
    return F.dropout(scores.softmax(-1), dropout) @ value
