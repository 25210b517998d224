"""Blocks that are read both ways, one after the other: every query sees the keys before its block's end.

CogView2's release fills holes of an image so: the text sees the text, the known part of the image sees
text and known part, what is drawn sees what was before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cogview.transformer.attention.pattern import Visibility


class Staircase(Visibility):
    """reach: int64 (length,) or (batch, length): query i sees the keys j < reach[i]; each sees itself."""

    def __init__(self, reach: Tensor) -> None:
        self.reach = reach.reshape(-1, reach.shape[-1])
        if (self.reach <= torch.arange(reach.shape[-1], device=reach.device)).any():
            raise ValueError("every query sees itself, so reach[i] is larger than i")

    @classmethod
    def of_blocks(cls, *lengths: int) -> Staircase:
        """Blocks of ``size`` tokens; blocks of one are causal."""
        ends = torch.tensor(lengths).cumsum(0)
        return cls(ends.repeat_interleave(torch.tensor(lengths)))

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        reach = self.reach[:, keys - queries : keys].to(device)
        return (torch.arange(keys, device=device) < reach[..., None])[:, None]
