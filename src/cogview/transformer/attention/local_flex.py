"""Local attention on a GPU with FlexAttention, whose blocks follow tiles of the image instead of its rows.

In raster order a block of 128 codes is a thin stripe, whose windows overlap many blocks. Queries and keys are
therefore reordered by tiles of 8 x 16 codes, so that few blocks contain visible keys.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from cogview.transformer.attention.flex_dropout import attend_dropped, compiled, keep_mask, sample_seeds
from cogview.transformer.attention.window import Grid, Layout

TILE = (8, 16)  # codes of a block of 128


def tile_order(grid: Grid) -> Tensor:
    """int64 (rows * columns,): the grid's indices in the order of tiles."""
    number = torch.arange(grid[0] * grid[1])
    row, column = number // grid[1], number % grid[1]
    tile = row // TILE[0] * grid[1] + column // TILE[1]
    return (tile * number.numel() + number).argsort()


class FlexKernel:
    """The kernel of a view; arguments as for :class:`~cogview.transformer.attention.local.Windowed`."""

    def __init__(self, layout: Layout, head_mask: Tensor, hidden: Tensor | None) -> None:
        self.layout, self.head_mask, self.hidden = layout, head_mask, hidden
        self.head = head_mask.shape[-1]
        self.order = torch.cat([torch.arange(self.head), self.head + tile_order(layout.queries)])

    def sees(self, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """FlexAttention's ``mask_mod``: whether a query sees a key, both indices into ``order``."""
        query, key, last = self.order[query], self.order[key], max(self.head - 1, 0)
        seen = self.layout.sees((query - self.head).clamp(min=0), key)
        if self.hidden is not None:
            hidden = self.hidden[batch, key.clamp(max=self.layout.shared - 1)]
            seen = seen & ((key >= self.layout.shared) | ~hidden)
        if not self.head:
            return seen
        row = batch if len(self.head_mask) > 1 else 0
        in_head = self.head_mask[row, query.clamp(max=last), key.clamp(max=last)]
        return torch.where(query < self.head, in_head & (key < self.head), seen)

    @cached_property
    def block_mask(self) -> BlockMask:
        """The visible blocks, computed once for all layers."""
        batch = max(len(self.head_mask), 1 if self.hidden is None else len(self.hidden))
        size, device = len(self.order), self.order.device.type

        def sees(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:  # FlexAttention rejects methods
            return self.sees(b, h, query, key)

        return create_block_mask(sees, batch if batch > 1 else None, None, size, size, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Three tensors (b, heads, length, d) -> (b, heads, length, d)."""
        return self.attend(compiled(), query, key, value, dropout)

    def attend(
        self, flex: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0
    ) -> Tensor:
        """As a call, with ``flex`` as FlexAttention, compiled or not."""
        self._move(query.device)
        order = self.order
        query, key, value = (x.index_select(2, order) for x in (query, key, value))
        if dropout:
            by_position = keep_mask(sample_seeds(query), dropout)

            def keep(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return by_position(batch, head, order[query], order[key])

            out = attend_dropped(flex, (query, key, value), None, self.block_mask, keep, dropout)
        else:
            out = flex(query, key, value, block_mask=self.block_mask)
        return torch.empty_like(out).index_copy(2, self.order, out)

    def _move(self, device: torch.device) -> None:
        if self.order.device != device:
            self.order, self.head_mask = self.order.to(device), self.head_mask.to(device)
            self.hidden = None if self.hidden is None else self.hidden.to(device)
