"""How far a model's values are from overflowing fp16, layer by layer (CogView, section 2.4).

The paper found two places where values explode: the residual branches, whose outputs deep layers magnify, and
the attention scores. Hooks read the largest size of each in a forward pass in fp32; *headroom* is how many
times it can double before fp16's largest number, 65,504. PB-relax takes the scores' largest off before the
softmax and divides by alpha, so relaxed scores have log2(alpha) more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cogview.transformer.attention import ReferencePattern, View, Visibility
from cogview.transformer.block import Attention, Block, FeedForward
from cogview.transformer.model import Transformer

LARGEST = 65504.0


def headroom(size: float) -> float:
    """Doublings left before fp16 overflows; negative where it does, -inf where it is no number."""
    if math.isnan(size) or math.isinf(size):
        return -math.inf
    return math.log2(LARGEST / size) if size > 0 else math.inf


@dataclass(frozen=True)
class LayerRanges:
    """Largest sizes in one layer.

    stream: of the residual stream that leaves it; attention, feed_forward: of its branches before their last
    norm; wide: of the feed-forward's wide part before GELU; scores: of Q K / sqrt(d), before any relaxation.
    """

    layer: int
    stream: float
    attention: float
    feed_forward: float
    wide: float
    scores: float

    @property
    def largest(self) -> float:
        """Of everything."""
        return max(self.stream, self.attention, self.feed_forward, self.wide, self.scores)

    @property
    def headroom(self) -> float:
        """Doublings left in the tightest place."""
        return headroom(self.largest)


def layer_ranges(
    model: Transformer, ids: Tensor, positions: Tensor, visibility: Visibility | None = None
) -> list[LayerRanges]:
    """The ranges of every layer for sequences ids (b, L) and positions (b, L) or (L,), int64.

    visibility: who sees whom (default: causal). The model is not changed; it runs once, as it is (training
    mode and numerics included).
    """
    sizes: list[dict[str, float]] = []
    handles = []
    for block in model.blocks:
        assert isinstance(block, Block)
        found: dict[str, float] = {}
        sizes.append(found)
        handles += _watch(block, found)
    try:
        with torch.no_grad():
            model(ids, positions, None if visibility is None else ReferencePattern(visibility))
    finally:
        for handle in handles:
            handle.remove()
    return [LayerRanges(layer=number, **found) for number, found in enumerate(sizes)]


def _watch(block: Block, found: dict[str, float]) -> list[Any]:
    def largest(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _given, output: found.__setitem__(name, _size(output))

    def scores(module: Attention, given: tuple[Any, ...]) -> None:
        found["scores"] = largest_score(module, given[0], given[1])

    feed_forward: FeedForward = block.mlp
    return [
        block.register_forward_hook(largest("stream")),
        block.attention.register_forward_hook(largest("attention")),
        feed_forward.register_forward_hook(largest("feed_forward")),
        feed_forward.up.register_forward_hook(largest("wide")),
        block.attention.register_forward_pre_hook(scores),
    ]


def _size(x: Tensor) -> float:
    return float(x.detach().float().abs().max())


def largest_score(module: Attention, x: Tensor, view: View) -> float:
    """The largest size of a score that its query sees; x: (b, L, h)."""
    query, key = (part.float() for part in module.query_key_value(x)[:2])  # (b, heads, L, d)
    length, most = x.shape[1], 0.0
    seen = torch.ones(length, length, dtype=torch.bool, device=x.device)
    if view.causal:
        seen = seen.tril()
    for head in range(module.config.heads):  # one head at a time bounds the memory
        scores = query[:, head] @ key[:, head].mT / math.sqrt(module.config.head_dim)
        allowed = seen if view.allowed is None else view.allowed[:, min(head, view.allowed.shape[1] - 1)]
        most = max(most, float(scores.abs().masked_fill(~allowed, 0).max()))
    return most
