"""What an attention pattern is: who sees whom, with what bias, and how that is computed fast.

A pattern's ``dense_mask`` and ``bias`` are its definition; every fast path is tested against them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

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
