"""An arbitrary attention pattern, given by its mask."""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.pattern import Visibility


def four_dimensional(x: Tensor) -> Tensor:
    """Reshape (q, k), (b, q, k) or (b, heads, q, k) to (b, heads, q, k); missing dimensions are 1."""
    if x.dim() not in (2, 3, 4):
        raise ValueError(f"a mask has 2, 3 or 4 dimensions, not {tuple(x.shape)}")
    return x if x.dim() == 4 else x.unsqueeze(-3) if x.dim() == 3 else x[None, None]


class Dense(Visibility):
    """A mask over the full sequence, with an optional bias.

    mask: bool (length, length), (batch, length, length) or (batch, heads, length, length). bias: float, the
    same shapes. With a cache, the rows and columns of the current queries and keys are used; a mask with only
    the rows of the queries is used unchanged.
    """

    def __init__(self, mask: Tensor, bias: Tensor | None = None) -> None:
        if mask.dtype != torch.bool:
            raise ValueError(f"visibility is a bool mask (True = seen), not {mask.dtype}")
        self.mask = four_dimensional(mask)
        self.additive = None if bias is None else four_dimensional(bias)

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return self._rows(self.mask, queries, keys).to(device)

    def bias(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor | None:
        return None if self.additive is None else self._rows(self.additive, queries, keys).to(device)

    @staticmethod
    def _rows(x: Tensor, queries: int, keys: int) -> Tensor:
        if x.shape[-2] in (1, queries) and x.shape[-1] in (1, keys):
            return x
        if x.shape[-1] < keys or x.shape[-2] < keys:
            raise ValueError(f"a mask of {tuple(x.shape)} does not cover {queries} queries and {keys} keys")
        return x[..., keys - queries : keys, :keys]
