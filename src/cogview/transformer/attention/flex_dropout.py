"""Attention dropout for FlexAttention, which lacks it: the mask is computed in the score function.

Whether the weight of (query, key) is kept depends on a hash of a per-head seed and the two positions, so the
backward pass recomputes the same mask, and nothing of size queries x keys is stored. Dropout acts on
probabilities: the softmax is normalized over all keys. So attention is computed twice, over all keys for the
logsumexp L, and over the kept keys for the output and their logsumexp L', and

    dropout(softmax(S)) V = exp(L' - L) / (1 - p) * softmax(S of the kept) V

FlexAttention returns both logarithms with their gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]  # score, batch, head, query, key -> score
Keep = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # batch, head, query, key -> bool
STEPS = 1 << 24  # resolution of the probability, as in float32


@cache
def compiled() -> Callable[..., Any]:
    """FlexAttention, compiled once."""
    return torch.compile(flex_attention, dynamic=False)


def sample_seeds(query: Tensor) -> Tensor:
    """int32 (b, heads), a seed for each head of query (b, heads, n, d), from its device's generator."""
    limit = 1 << 31
    return torch.randint(-limit, limit, query.shape[:2], dtype=torch.int32, device=query.device)


def mix(x: Tensor) -> Tensor:
    """Wellons' lowbias32 hash of int32: a bijection in which every input bit affects every output bit.

    Out of place, for traced kernels; :mod:`cogview.generation.sampling` has the same hash in place.
    """
    x = x ^ ((x >> 16) & 0xFFFF)  # int32 shifts extend the sign, hence the masks
    x = x * 0x7FEB352D
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * (0x846CA68B - (1 << 32))
    return x ^ ((x >> 16) & 0xFFFF)


def keep_mask(seeds: Tensor, p: float) -> Keep:
    """The mask of weights to keep, as a function of batch, head and positions. seeds: int32 (b, heads)."""
    threshold = round(p * STEPS)

    def keep(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query_hash = mix(query.to(torch.int32) ^ seeds[batch, head])
        return (mix(query_hash ^ key.to(torch.int32)) >> 8) & (STEPS - 1) >= threshold

    return keep


def attend_dropped(
    flex: Callable[..., Any],
    tensors: tuple[Tensor, Tensor, Tensor],
    score: Score | None,
    block_mask: BlockMask,
    keep: Keep,
    p: float,
) -> Tensor:
    """FlexAttention of query, key and value (b, heads, n, d) with dropout of probabilities.

    score: FlexAttention's ``score_mod``, if any; keep: which weights are kept, by FlexAttention's indices.
    """

    def score_kept(value: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        modified = value if score is None else score(value, batch, head, query, key)
        return torch.where(keep(batch, head, query, key), modified, -torch.inf)

    query, key, value = tensors
    aux = AuxRequest(lse=True)
    _, total = flex(query, key, value.detach(), score_mod=score, block_mask=block_mask, return_aux=aux)
    out, kept = flex(query, key, value, score_mod=score_kept, block_mask=block_mask, return_aux=aux)
    factor: Tensor = (kept.lse - total.lse).exp()[..., None] / (1 - p)
    output: Tensor = out * factor
    return output.to(value.dtype)
