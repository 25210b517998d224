"""Attention dropout for FlexAttention, which has none: the mask is computed inside the score function.

Whether the weight of (query, key) is kept is a hash of a seed of its head and of the two positions, so the
backward pass computes the same mask again and nothing of the size queries x keys is kept. Dropout acts on
probabilities: the softmax's sum is that of all keys. So attention is computed twice, over all keys for the
logarithm L of the sum and over the kept ones for the output and their L', and

    dropout(softmax(S)) V = exp(L' - L) / (1 - chance) * softmax(S of the kept) V

FlexAttention gives both logarithms with their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # score, batch, head, query, key -> score
Kept = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # batch, head, query, key -> bool
STEPS = 1 << 24  # of a chance: the resolution of float32


@cache
def compiled() -> Callable[..., Any]:
    """FlexAttention as a kernel, compiled once."""
    return torch.compile(flex_attention, dynamic=False)


def draw_seeds(query: Tensor) -> Tensor:
    """int32 (b, heads), a seed for each head of a query (b, heads, n, d), from its device's generator."""
    limit = 1 << 31
    return torch.randint(-limit, limit, query.shape[:2], dtype=torch.int32, device=query.device)


def mix(x: Tensor) -> Tensor:
    """Wellons' lowbias32 of int32: a bijection in which every input bit moves every output bit.

    Out of place, for kernels that are traced; :mod:`cogview.generation.sampling` has the same in place.
    """
    x = x ^ ((x >> 16) & 0xFFFF)  # int32 shifts carry the sign, hence the masks
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


def keeps(seeds: Tensor, chance: float) -> Kept:
    """Which weights are kept, from positions in the sequence; seeds: int32 (b, heads)."""
    dropped = round(chance * STEPS)

    def kept(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_query = mix(query.to(torch.int32) ^ seeds[batch, head])
        return (mix(of_query ^ key.to(torch.int32)) >> 8) & (STEPS - 1) >= dropped

    return kept


def attend_dropped(
    flex: Callable[..., Any],
    tensors: tuple[Tensor, Tensor, Tensor],
    score: Score | None,
    block_mask: BlockMask,
    kept: Kept,
    chance: float,
) -> Tensor:
    """FlexAttention of query, key and value (b, heads, n, d) with dropout of probabilities.

    score: FlexAttention's ``score_mod``, if any; kept: as FlexAttention's indices say it.
    """

    def score_kept(value: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        given = value if score is None else score(value, batch, head, query, key)
        return torch.where(kept(batch, head, query, key), given, -torch.inf)

    query, key, value = tensors
    asked = AuxRequest(lse=True)
    _, every = flex(query, key, value.detach(), score_mod=score, block_mask=block_mask, return_aux=asked)
    out, some = flex(query, key, value, score_mod=score_kept, block_mask=block_mask, return_aux=asked)
    share: Tensor = (some.lse - every.lse).exp()[..., None] / (1 - chance)
    whole: Tensor = out * share
    return whole.to(value.dtype)
