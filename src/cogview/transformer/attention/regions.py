"""Mask regions (CogView2, section 3.1, equation 1): bidirectional context, autoregressive regions.

Every token is context or lies in a mask region. Only the attention mask A changes, not the input::

    A[i, j] = 1   if j is context
              1   if i and j lie in mask regions and j is not behind i
              0   otherwise

So context attends to context, and a token of a region to all context and the regions' tokens up to itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.pattern import View, Visibility


class MaskRegions(Visibility):
    """Equation 1, for tokens in any order, with padding.

    order: int64 (length,) or (batch, length): 0 for context; 1, 2, … for the tokens of mask regions in
    generation order; -1 for padding, which is hidden. streams: the same shape, for regions that are
    independent of each other: a token of a region sees only tokens of stream 0 and of its own stream (two
    captions of one image do not see each other). Default: all tokens are in stream 0.
    """

    def __init__(self, order: Tensor, streams: Tensor | None = None) -> None:
        self.order = order.reshape(-1, order.shape[-1])
        self.streams = None if streams is None else streams.reshape(-1, streams.shape[-1])

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        order = self.order[:, :keys].to(device)
        row, column = order[:, keys - queries :, None], order[:, None]
        seen = (column > 0) & (column <= row)
        if self.streams is not None:
            streams = self.streams[:, :keys].to(device)
            seen &= (streams[:, None] == 0) | (streams[:, None] == streams[:, keys - queries :, None])
        return (seen | (column == 0))[:, None]

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """The dense mask, but a row that would see nothing (padding without context) sees everything.

        A fused kernel returns NaN for such a row, and its gradient would reach the others.
        """
        mask = self.dense_mask(queries, keys, device)
        return View(mask | ~mask.any(-1, keepdim=True))
