"""The interface of attention patterns (mask, bias, fast path), and the causal patterns.

A pattern's ``dense_mask`` and ``bias`` are its definition; every fast path is tested against them. The causal
patterns are defined here, with two variants: a prefix with bidirectional attention for CogView2's text
prompts, and left padding to decode prompts of different lengths in one batch.

Attention for a view has three implementations: fused, step by step (equation 4), and as released. All take
query (b, heads, q, d), key and value (b, heads, k, d) and return (b, heads, q, d); the last two accept dense
views only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

Kernel = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class View:
    """A pattern for given lengths, built once per forward pass and shared by the layers.

    allowed: bool, broadcastable to (batch, heads, queries, keys), ``None`` if everything is visible.
    bias: added to the scores, same shape. Fast paths of fused attention: causal: a square lower triangle
    instead of ``allowed``; kernel: a function (query, key, value, dropout) -> output.
    """

    allowed: Tensor | None = None
    bias: Tensor | None = None
    causal: bool = False
    kernel: Kernel | None = None
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """Mask (hidden: -inf) and bias as one tensor to add to the scores; ``None`` if not needed."""
        if self.allowed is None and self.bias is None:
            return None
        if dtype not in self._additive:
            self._additive[dtype] = self._add(dtype)
        return self._additive[dtype]

    def of_rows(self, rows: slice) -> View:
        """The view for some rows of the batch."""
        if rows == slice(None) or self == View():
            return self
        assert self.kernel is None and not self.causal
        allowed, bias = (x if x is None or len(x) == 1 else x[rows] for x in (self.allowed, self.bias))
        return View(allowed, bias)

    def _add(self, dtype: torch.dtype) -> Tensor:
        if self.allowed is None:
            assert self.bias is not None
            return self.bias.to(dtype)
        zero = torch.zeros((), dtype=dtype, device=self.allowed.device)
        bias = zero if self.bias is None else self.bias.to(dtype)
        return torch.where(self.allowed, bias, zero - torch.inf)


class Visibility(ABC):
    """An attention pattern. The queries are always the last ``queries`` of the ``keys``."""

    @abstractmethod
    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        """bool (1 or batch, 1 or heads, queries, keys): True where the query sees the key."""

    def bias(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor | None:
        """The bias added to the scores, broadcastable like the mask, or ``None``."""
        return None

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """The fast path for these lengths; by default the dense mask in a fused kernel."""
        return self.dense_view(queries, keys, device, layer)

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """The definition as a view, without a fast path."""
        return View(self.dense_mask(queries, keys, device), self.bias(queries, keys, device))

    @property
    def varies_by_layer(self) -> bool:
        """Whether each layer needs a separate view."""
        return False


class ReferencePattern(Visibility):
    """Another pattern without its fast paths: its views are always dense masks."""

    def __init__(self, pattern: Visibility) -> None:
        self.pattern = pattern

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return self.pattern.dense_mask(queries, keys, device)

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        return self.pattern.dense_view(queries, keys, device, layer)


def lower_triangle(queries: int, keys: int, device: torch.device | None = None) -> Tensor:
    """bool (queries, keys), True where the key is not after the query; the last query is the last key."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class Causal(Visibility):
    """Causal attention: each token sees itself and the tokens before it."""

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return lower_triangle(queries, keys, device)[None, None]

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if queries == 1:
            return View()
        if queries == keys:
            return View(causal=True)
        return self.dense_view(queries, keys, device)


class Prefix(Visibility):
    """Causal attention with a bidirectional prefix.

    lengths: tokens of the prefix, one number or (batch,) int64; 0 is causal.
    """

    def __init__(self, lengths: int | Tensor) -> None:
        self.lengths = lengths

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        lengths = torch.as_tensor(self.lengths, device=device).reshape(-1, 1, 1, 1)
        return lower_triangle(queries, keys, device) | (torch.arange(keys, device=device) < lengths)

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        inside = isinstance(self.lengths, Tensor) or self.lengths > keys - queries + 1
        return self.dense_view(queries, keys, device) if inside else Causal().view(queries, keys, device)


class LeftPadded(Visibility):
    """Causal attention with left padding, so that prompts of different lengths end in the same column.

    padding: (b,) int64, the number of hidden tokens at the start. text: (b,) int64, the number of tokens
    after the padding whose scores receive ``bias``.
    """

    def __init__(self, padding: Tensor, capacity: int, text: Tensor | None = None, bias: float = 0.0) -> None:
        index = torch.arange(capacity, device=padding.device)
        self.seen = index >= padding[:, None]
        self.added = torch.zeros(self.seen.shape, device=padding.device)
        if text is not None:
            self.added.masked_fill_(self.seen & (index < (padding + text)[:, None]), bias)
        self.hidden = self.added.masked_fill(~self.seen, -torch.inf)

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        seen = self.seen[:, None, None, :keys]
        return (seen & lower_triangle(queries, keys, seen.device)).to(device)

    def bias(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return self.added[:, None, None, :keys].to(device)

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if queries == 1:
            return View(bias=self.hidden[:, None, None, :keys])
        return self.dense_view(queries, keys, device)


HIDDEN = -10000.0  # the score of a hidden key in the released code


def attend_fused(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """Fused attention: the kernel keeps the scores in float32, so they cannot overflow without equation 4."""
    if view.kernel is not None:
        return view.kernel(query, key, value, dropout)
    mask = view.additive(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=view.causal)


def attend_in_parts(query: Tensor, key: Tensor, value: Tensor, views: Sequence[View]) -> Tensor:
    """:func:`attend_fused` with one view; with a view per query, each query separately with the keys up to
    its own position."""
    if len(views) == 1:
        return attend_fused(query, key, value, views[0])
    count, length = len(views), key.shape[2]
    ends = range(length - count + 1, length + 1)
    outputs = [
        attend_fused(query[:, :, i : i + 1], key[:, :, :end], value[:, :, :end], view)
        for i, (end, view) in enumerate(zip(ends, views, strict=True))
    ]
    return torch.cat(outputs, 2)


def attend_written(
    query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0, alpha: float | None = None
) -> Tensor:
    """Attention step by step, with scores in the tensors' dtype; with ``alpha``, equation 4.

    Equation 4: softmax((Q K / (alpha sqrt(d)) - max) alpha): the maximum is subtracted while the scores are
    still small. Without ``alpha`` only the query is scaled first. The paper's maximum is per head ("at least
    head-wise"); here it is per query, over its visible keys: otherwise all scores of a query that lie 65,504
    below another query's would become -inf.
    """
    root = math.sqrt(query.shape[-1])
    if alpha is None:
        scores = (query / root) @ key.mT
    else:
        scores = (query / (alpha * root)) @ key.mT
        visible = scores.detach()
        if view.allowed is not None:
            visible = visible.masked_fill(~view.allowed, -torch.inf)
        scores = (scores - visible.amax(-1, keepdim=True)) * alpha
    if view.bias is not None:
        scores = scores + view.bias.to(scores.dtype)
    if view.allowed is not None:
        scores = scores.masked_fill(~view.allowed, -torch.inf)
    return F.dropout(scores.softmax(-1), dropout) @ value


def attend_released(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """Attention as released: the bias, then ``scores * mask - 10000 * (1 - mask)``, in the model's dtype.

    A query that sees nothing attends to all keys equally; the other two implementations return NaN for it.
    """
    scores = (query / math.sqrt(query.shape[-1])) @ key.mT
    if view.bias is not None:
        scores = scores + view.bias.to(scores.dtype)
    if view.allowed is not None:
        mask = view.allowed.to(scores.dtype)
        scores = scores * mask + HIDDEN * (1 - mask)
    return F.dropout(scores.softmax(-1), dropout) @ value
