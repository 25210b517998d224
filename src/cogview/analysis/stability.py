"""Headroom of a model's values before fp16 overflows, layer by layer (CogView, section 2.4).

The paper found two places where values explode: the outputs of the residual branches, which deep layers
magnify, and the attention scores. Hooks record the largest absolute value of each in an fp32 forward pass;
*headroom* is the number of doublings before fp16's largest number, 65,504. PB-relax subtracts the scores'
maximum before the softmax and divides by alpha, so relaxed scores have log2(alpha) doublings more.
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
    """Doublings before fp16 overflows: negative if it does, -inf for NaN or infinity."""
    if math.isnan(size) or math.isinf(size):
        return -math.inf
    return math.log2(LARGEST / size) if size > 0 else math.inf


@dataclass(frozen=True)
class LayerRanges:
    """Largest absolute values in one layer.

    stream: of the residual stream after the layer; attention, feed_forward: of its branches before their last
    norm; wide: of the feed-forward's hidden layer before GELU; scores: of Q K / sqrt(d), before PB-relax.
    """

    layer: int
    stream: float
    attention: float
    feed_forward: float
    wide: float
    scores: float

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.stream, self.attention, self.feed_forward, self.wide, self.scores)

    @property
    def headroom(self) -> float:
        """Doublings before the largest value overflows."""
        return headroom(self.largest)


def layer_ranges(
    model: Transformer, ids: Tensor, positions: Tensor, visibility: Visibility | None = None
) -> list[LayerRanges]:
    """The ranges of every layer for sequences ids (b, L) and positions (b, L) or (L,), int64.

    visibility: the attention pattern (default: causal). The model is not changed; it runs once as it is,
    including training mode and numerics.
    """
    layers: list[dict[str, float]] = []
    handles = []
    for block in model.blocks:
        assert isinstance(block, Block)
        values: dict[str, float] = {}
        layers.append(values)
        handles += _hook(block, values)
    try:
        with torch.no_grad():
            model(ids, positions, None if visibility is None else ReferencePattern(visibility))
    finally:
        for handle in handles:
            handle.remove()
    return [LayerRanges(layer=number, **values) for number, values in enumerate(layers)]


def _hook(block: Block, values: dict[str, float]) -> list[Any]:
    """Register hooks that record a block's largest absolute values in ``values``; returns their handles."""

    def largest(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _args, output: values.__setitem__(name, _largest(output))

    def scores(module: Attention, args: tuple[Any, ...]) -> None:
        values["scores"] = largest_score(module, args[0], args[1])

    feed_forward: FeedForward = block.mlp
    return [
        block.register_forward_hook(largest("stream")),
        block.attention.register_forward_hook(largest("attention")),
        feed_forward.register_forward_hook(largest("feed_forward")),
        feed_forward.up.register_forward_hook(largest("wide")),
        block.attention.register_forward_pre_hook(scores),
    ]


def _largest(x: Tensor) -> float:
    return float(x.detach().float().abs().max())


def largest_score(module: Attention, x: Tensor, view: View) -> float:
    """The largest absolute attention score that is not masked; x: (b, L, h)."""
    query, key = (part.float() for part in module.query_key_value(x)[:2])  # (b, heads, L, d)
    length, largest = x.shape[1], 0.0
    mask = torch.ones(length, length, dtype=torch.bool, device=x.device)
    if view.causal:
        mask = mask.tril()
    for head in range(module.config.heads):  # one head at a time, to limit memory
        scores = query[:, head] @ key[:, head].mT / math.sqrt(module.config.head_dim)
        allowed = mask if view.allowed is None else view.allowed[:, min(head, view.allowed.shape[1] - 1)]
        largest = max(largest, float(scores.abs().masked_fill(~allowed, 0).max()))
    return largest
