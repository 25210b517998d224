"""What an attention pattern is: who sees whom, with what bias, and how that is computed fast.

A pattern's ``dense_mask`` and ``bias`` are its definition; every fast path is tested against them. The causal
patterns are here: each token sees itself and what stands before it. Two variants: CogView2's text prompts are
a prefix that is seen both ways, and prompts of several lengths are padded on the left while a batch is
decoded.

Attention is computed for a view in three ways: fused, written out (equation 4), and as released. All take
query (b, heads, q, d), key and value (b, heads, k, d) and return (b, heads, q, d); the last two take dense
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
    """A pattern for given lengths, made once a forward pass and used by every layer.

    allowed: bool, broadcastable to (batch, heads, queries, keys), ``None`` when everything is visible.
    bias: added to the scores, same shape. The fast paths of a fused kernel: causal: a square lower triangle
    instead of ``allowed``; kernel: computes (query, key, value, dropout) -> output itself.
    """

    allowed: Tensor | None = None
    bias: Tensor | None = None
    causal: bool = False
    kernel: Kernel | None = None
    _additive: dict[torch.dtype, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def additive(self, dtype: torch.dtype) -> Tensor | None:
        """Mask and bias as one tensor to add to the scores, hidden entries -inf; ``None`` if not needed."""
        if self.allowed is None and self.bias is None:
            return None
        if dtype not in self._additive:
            self._additive[dtype] = self._add(dtype)
        return self._additive[dtype]

    def of_rows(self, rows: slice) -> View:
        """The view of some rows of the batch."""
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
        """What is added to the scores, broadcastable like the mask, or ``None``."""
        return None

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """The fast path for these lengths; by default the dense mask in a fused kernel."""
        return self.dense_view(queries, keys, device, layer)

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """The definition itself as a view."""
        return View(self.dense_mask(queries, keys, device), self.bias(queries, keys, device))

    @property
    def varies_by_layer(self) -> bool:
        """Whether each layer needs a view of its own."""
        return False


class Defined(Visibility):
    """Another pattern without its fast paths: its views say who sees whom, whatever computes it."""

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
    """The pattern of generation and of CogView's training."""

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return lower_triangle(queries, keys, device)[None, None]

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if queries == 1:
            return View()
        if queries == keys:
            return View(causal=True)
        return self.dense_view(queries, keys, device)


class Prefix(Visibility):
    """lengths: tokens of the prefix, one number or (batch,) int64. 0 is causal."""

    def __init__(self, lengths: int | Tensor) -> None:
        self.lengths = lengths

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        lengths = torch.as_tensor(self.lengths, device=device).reshape(-1, 1, 1, 1)
        return lower_triangle(queries, keys, device) | (torch.arange(keys, device=device) < lengths)

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        inside = isinstance(self.lengths, Tensor) or self.lengths > keys - queries + 1
        return self.dense_view(queries, keys, device) if inside else Causal().view(queries, keys, device)


class LeftPadded(Visibility):
    """Causal, with the first tokens of each row hidden: prompts of several lengths end in one column.

    padding: (b,) int64. text: (b,) int64, the tokens after the padding whose scores get ``bias``.
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


HIDDEN = -10000.0  # the released score of a hidden key


def attend_fused(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0) -> Tensor:
    """One kernel that keeps the scores in float32, so that they cannot overflow: eq. 4 changes nothing."""
    if view.kernel is not None:
        return view.kernel(query, key, value, dropout)
    mask = view.additive(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=view.causal)


def attend_in_parts(query: Tensor, key: Tensor, value: Tensor, views: Sequence[View]) -> Tensor:
    """:func:`attend_fused` for one view; with a view for each query, each alone
    with the keys up to its own."""
    if len(views) == 1:
        return attend_fused(query, key, value, views[0])
    count, length = len(views), key.shape[2]
    ends = range(length - count + 1, length + 1)
    found = [
        attend_fused(query[:, :, i : i + 1], key[:, :, :end], value[:, :, :end], view)
        for i, (end, view) in enumerate(zip(ends, views, strict=True))
    ]
    return torch.cat(found, 2)


def attend_written(
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


def attend_released(query: Tensor, key: Tensor, value: Tensor, view: View, dropout: float = 0.0) -> Tensor:
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
