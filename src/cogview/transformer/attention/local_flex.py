"""Local attention on a GPU: FlexAttention, whose blocks follow tiles of the image instead of its rows.

In raster order a block of 128 codes is a thin stripe, whose windows reach over many blocks. Queries and keys
are put in the order of tiles of 8 x 16 codes; then few blocks hold anything that is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from cogview.transformer.attention.flex_dropout import attend_dropped, compiled, draw_seeds, keeps
from cogview.transformer.attention.window import Grid, Layout

TILE = (8, 16)  # codes of a block of 128


def tile_order(grid: Grid) -> Tensor:
    """int64 (rows * columns,): the numbers of a grid's places, tile after tile."""
    number = torch.arange(grid[0] * grid[1])
    row, column = number // grid[1], number % grid[1]
    tile = row // TILE[0] * grid[1] + column // TILE[1]
    return (tile * number.numel() + number).argsort()


class FlexKernel:
    """A view's kernel; arguments as :class:`~cogview.transformer.attention.local.Windowed`'s."""

    def __init__(self, layout: Layout, among: Tensor, hidden: Tensor | None) -> None:
        self.layout, self.among, self.hidden = layout, among, hidden
        self.head = among.shape[-1]
        self.order = torch.cat([torch.arange(self.head), self.head + tile_order(layout.queries)])

    def sees(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """FlexAttention's mask: whether a query sees a key, both as numbers in ``order``."""
        query, key, last = self.order[query], self.order[key], max(self.head - 1, 0)
        seen = self.layout.sees((query - self.head).clamp(min=0), key)
        if self.hidden is not None:
            veil = self.hidden[batch, key.clamp(max=self.layout.shared - 1)]
            seen = seen & ((key >= self.layout.shared) | ~veil)
        if not self.head:
            return seen
        among = self.among[batch if len(self.among) > 1 else 0, query.clamp(max=last), key.clamp(max=last)]
        return torch.where(query < self.head, among & (key < self.head), seen)

    @cached_property
    def block_mask(self) -> BlockMask:
        """Which blocks are seen, made once for all layers."""
        batch = max(len(self.among), 1 if self.hidden is None else len(self.hidden))
        size, device = len(self.order), self.order.device.type

        def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:  # a method is not taken
            return self.sees(b, h, query, key)

        return create_block_mask(sees, batch if batch > 1 else None, None, size, size, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """(b, heads, length, d), three times -> (b, heads, length, d)."""
        return self.attend(compiled(), query, key, value, dropout)

    def attend(
        self, flex: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0
    ) -> Tensor:
        """The same with a given FlexAttention, compiled or not."""
        self._move(query.device)
        order = self.order
        query, key, value = (x.index_select(2, order) for x in (query, key, value))
        if dropout:
            kept = keeps(draw_seeds(query), dropout)

            def keep(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return kept(batch, head, order[query], order[key])

            out = attend_dropped(flex, (query, key, value), None, self.block_mask, keep, dropout)
        else:
            out = flex(query, key, value, block_mask=self.block_mask)
        return torch.empty_like(out).index_copy(2, self.order, out)

    def _move(self, device: torch.device) -> None:
        if self.order.device != device:
            self.order, self.among = self.order.to(device), self.among.to(device)
            self.hidden = None if self.hidden is None else self.hidden.to(device)
