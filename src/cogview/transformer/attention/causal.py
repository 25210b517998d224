"""Causal attention: each token sees itself and what stands before it.

Two variants: CogView2's text prompts are a prefix that is seen both ways, and prompts of several lengths are
padded on the left while a batch is decoded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.pattern import View, Visibility


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
