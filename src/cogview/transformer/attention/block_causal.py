"""Block-causal attention: every query sees the keys up to the end of its block.

CogView2's release uses it for infilling: the text sees the text, the known part of the image sees the text
and itself, and generated tokens see all tokens before them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.pattern import Visibility


class BlockCausal(Visibility):
    """reach: int64 (length,) or (batch, length): query i sees the keys j < reach[i], where reach[i] > i."""

    def __init__(self, reach: Tensor) -> None:
        self.reach = reach.reshape(-1, reach.shape[-1])
        if (self.reach <= torch.arange(reach.shape[-1], device=reach.device)).any():
            raise ValueError("reach[i] must be larger than i: every query sees itself")

    @classmethod
    def of_blocks(cls, *lengths: int) -> BlockCausal:
        """Consecutive blocks of these lengths; blocks of one token are causal."""
        ends = torch.tensor(lengths).cumsum(0)
        return cls(ends.repeat_interleave(torch.tensor(lengths)))

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        reach = self.reach[:, keys - queries : keys].to(device)
        return (torch.arange(keys, device=device) < reach[..., None])[:, None]
