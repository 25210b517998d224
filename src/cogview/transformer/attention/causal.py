"""Causal attention: each token sees itself and what stands before it."""

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
