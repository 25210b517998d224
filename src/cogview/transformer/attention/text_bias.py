"""Text attention bias (CogView2, section 4.2): a constant added to every attention score towards the text.

The image then follows its caption more closely; the paper finds c below 3 harmless. The constant is added
before masking, in every layer and head and for every query; the release uses 1.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.pattern import View, Visibility


class TextAttentionBias(Visibility):
    """Another pattern with ``constant`` added to the scores of its first ``columns`` keys.

    columns: one number, or (batch,) int64.
    """

    def __init__(self, pattern: Visibility, columns: int | Tensor, constant: float) -> None:
        self.pattern, self.columns, self.constant = pattern, columns, constant

    @property
    def varies_by_layer(self) -> bool:
        return self.pattern.varies_by_layer

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return self.pattern.dense_mask(queries, keys, device)

    def bias(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        columns = torch.as_tensor(self.columns, device=device).reshape(-1, 1, 1, 1)
        return (torch.arange(keys, device=device) < columns) * self.constant

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        inner, added = self.pattern.dense_view(queries, keys, device, layer), self.bias(queries, keys, device)
        return View(inner.allowed, added if inner.bias is None else added + inner.bias)
