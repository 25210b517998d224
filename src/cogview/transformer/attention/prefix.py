"""Prefix attention: the first tokens see each other both ways, the others are causal and see them all.

CogView2 gives the text of a prompt this visibility; CogView itself is causal throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.causal import Causal, lower_triangle
from cogview.transformer.attention.pattern import View, Visibility


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
