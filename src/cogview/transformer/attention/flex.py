"""Three-region attention on a GPU with FlexAttention, which skips blocks of keys that a block does not see.

Pivots are scattered over the sequence, so no block of keys would be empty. Therefore they are gathered in
front: the keys are the n pivots, then the full sequence; of the former a query sees those before its window,
of the latter its window. The block mask is computed from the blocks' ends, without a mask of all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from cogview.transformer.attention.flex_dropout import attend_dropped, compiled, keep_mask, sample_seeds

BLOCK = 128  # queries and keys of a block of the mask


class FlexKernel:
    """The kernel of a view. pivots: int64 (b, n); ratio: the number of keys that a pivot represents."""

    def __init__(self, window: int, times: int, pivots: Tensor, length: int, ratio: int) -> None:
        self.window, self.times, self.length, self.ratio = window, times, length, ratio
        self.pivots = pivots.sort(-1).values
        self.count = pivots.shape[1]
        order = torch.arange(length, device=pivots.device).expand(len(pivots), -1)
        self.places = torch.cat([self.pivots, order], 1)  # (b, n + length), position of each key
        self.sees, self.score = self._functions()

    def _functions(self) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        """FlexAttention's ``mask_mod`` and ``score_mod``; key indices run over n + length."""
        window, times, count, places = self.window, self.times, self.count, self.places
        bias = math.log(self.ratio)

        def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            start, place = (query // window - times + 1) * window, places[batch, key]
            return torch.where(key < count, place < start, (place >= start) & (place <= query))

        def score(value: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return value + torch.where(key < count, bias, 0.0)

        return sees, score

    @cached_property
    def block_mask(self) -> BlockMask:
        """The partially and the fully visible blocks, from the positions at their ends."""
        device, total = self.pivots.device, self.count + self.length
        first_query = torch.arange(0, self.length, BLOCK, device=device)[:, None]
        last_query = (first_query + BLOCK - 1).clamp(max=self.length - 1)
        begins = (first_query // self.window - self.times + 1) * self.window
        ends = (last_query // self.window - self.times + 1) * self.window
        first = torch.arange(0, total, BLOCK, device=device)
        last = (first + BLOCK - 1).clamp(max=total - 1)
        pivots, near = first < self.count, last >= self.count  # a block may contain both
        far_low = self.places[:, first][:, None]
        far_high = self.places[:, last.clamp(max=self.count - 1)][:, None]
        low, high = (first - self.count).clamp(min=0), last - self.count
        some = (pivots & (far_low < ends)) | (near & (high >= begins) & (low <= last_query))
        all_far, all_near = far_high < begins, (low >= ends) & (high <= first_query)
        full = torch.where(pivots, all_far, True) & torch.where(near, all_near, True)
        full &= (last - first == BLOCK - 1) & (last_query - first_query == BLOCK - 1)
        return BlockMask.from_kv_blocks(
            *_block_lists(some & ~full), *_block_lists(some & full), BLOCK, self.sees, (self.length, total)
        )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """Three tensors (b, heads, length, d) -> (b, heads, length, d)."""
        return self.attend(compiled(), query, key, value, dropout)

    def attend(
        self, flex: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0
    ) -> Tensor:
        """As a call, with ``flex`` as FlexAttention, compiled or not."""
        index = self.pivots[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
        key, value = (torch.cat([x.gather(2, index), x], 2) for x in (key, value))
        if dropout:
            by_position, places = keep_mask(sample_seeds(query), dropout), self.places

            def keep(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
                return by_position(batch, head, query, places[batch, key])

            return attend_dropped(flex, (query, key, value), self.score, self.block_mask, keep, dropout)
        out: Tensor = flex(query, key, value, score_mod=self.score, block_mask=self.block_mask)
        return out


def _block_lists(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """A bool table (b, queries, keys) as FlexAttention's counts (b, 1, queries) and indices of blocks."""
    number = blocks.sum(-1, dtype=torch.int32)[:, None]
    order = blocks.int().argsort(stable=True, dim=-1, descending=True).int()[:, None]
    return number, order.contiguous()
