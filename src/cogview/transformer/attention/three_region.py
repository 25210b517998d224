"""Three-region sparse attention (CogView, appendix B): a window, the text, and sampled image tokens.

The sequence is cut into blocks of ``window`` tokens. A query sees, causally, its own block and the
``times - 1`` before it; of what is further back it sees the *pivots* only: all of the text and image tokens
drawn at random, anew for every layer. Pivots stand for all that was not drawn, so their scores get
+ log(length // pivots).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.transformer.attention.pattern import View, Visibility


def sample_pivots(
    text: Tensor, image: Tensor, count: int, layers: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Pivots of a batch: every text position and image positions drawn without replacement.

    Args:
        text: bool (b, length), True for text and control tokens that are not padding.
        image: bool (b, length), True for image tokens.
        count: pivots a sequence.
        layers: drawn anew for each.

    Returns:
        (layers, b, count) int64, in the order of the sequence.

    Raises:
        CogViewError: a text has more tokens than there are pivots, or a sequence fewer tokens.
    """
    most, fewest = int(text.sum(-1).max()), int((text | image).sum(-1).min())
    if not most <= count <= fewest:
        raise CogViewError(
            f"{count} pivots: at least {most} are needed (the longest text) and at most {fewest} can be had"
        )
    chance = torch.rand(layers, *text.shape, generator=generator, device=text.device)
    chance = chance.masked_fill(text, 2.0).masked_fill(~(text | image), -1.0)
    return chance.topk(count, dim=-1).indices.sort(-1).values


class ThreeRegion(Visibility):
    """The training form of the pattern, with given pivots.

    window: tokens of a block. times: blocks a query sees, its own included. pivots: int64 (b, n), or
    (layers, b, n) for pivots that differ by layer; no position twice.
    """

    def __init__(self, window: int, times: int, pivots: Tensor) -> None:
        self.window, self.times = window, times
        self.pivots = pivots

    @property
    def varies_by_layer(self) -> bool:
        return self.pivots.dim() == 3

    def at(self, layer: int) -> ThreeRegion:
        """The pattern of one layer."""
        pivots = self.pivots[layer] if self.varies_by_layer else self.pivots
        return ThreeRegion(self.window, self.times, pivots)

    def far(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        """bool (queries, keys): True where the key lies before the query's window."""
        blocks = torch.arange(keys, device=device) // self.window
        return blocks[keys - queries :, None] - blocks >= self.times

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        index = torch.arange(keys, device=device)
        causal, far = index[keys - queries :, None] >= index, self.far(queries, keys, device)
        pivot = (self.pivots.to(device)[:, :, None] == index).any(1)  # (b, keys)
        return ((causal & ~far) | (far & pivot[:, None]))[:, None]

    def bias(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        return self.far(queries, keys, device) * self.log_ratio(keys)

    def log_ratio(self, length: int) -> float:
        """What is added to the score of a pivot."""
        return math.log(max(1, length // self.pivots.shape[-1]))

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        pattern = self.at(layer)
        return View(pattern.dense_mask(queries, keys, device), pattern.bias(queries, keys, device))

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """The definition, and a kernel that computes only the blocks seen where all is read at once."""
        if queries != keys or keys <= self.times * self.window:
            return self.dense_view(queries, keys, device, layer)
        return View(kernel=BlockKernel(self.at(layer), keys, device))


class BlockKernel:
    """Attention of each block of queries over its window and the pivots, gathered: (w, times w + n) scores.

    Memory and work grow with length * (times * window + pivots), not with length squared.
    """

    def __init__(self, pattern: ThreeRegion, length: int, device: torch.device | None) -> None:
        self.window, self.span = pattern.window, pattern.times * pattern.window
        self.pivots, self.length = pattern.pivots.to(device), length
        self.blocks = -(-length // self.window)
        self.mask = self._mask(pattern)  # (b, blocks, 1, window, span + pivots)

    def _mask(self, pattern: ThreeRegion) -> Tensor:
        """0 where the query sees its window's key, log(length // n) where a pivot, -inf elsewhere."""
        index = torch.arange(self.blocks * self.window, device=self.pivots.device).view(self.blocks, -1)
        ends = index[:, -1:] + 1
        keys = ends - self.span + torch.arange(self.span, device=ends.device)  # (blocks, span)
        near = (keys[:, None] >= 0) & (keys[:, None] <= index[..., None]) & (keys[:, None] < self.length)
        before = self.pivots[:, None] < (ends - self.span)  # (b, blocks, n)
        batch, count = self.pivots.shape
        seen = near.expand(batch, -1, -1, -1), before[:, :, None].expand(-1, -1, self.window, -1)
        values = torch.tensor([0.0] * self.span + [pattern.log_ratio(self.length)] * count)
        return torch.where(torch.cat(seen, -1), values.to(ends.device), -torch.inf)[:, :, None]

    def _blocks(self, x: Tensor) -> Tensor:
        """(b, heads, length, d) -> (b * blocks, heads, span + pivots, d)."""
        batch, heads, _, width = x.shape
        padded = F.pad(x, (0, 0, self.span - self.window, self.blocks * self.window - self.length))
        near = padded.unfold(2, self.span, self.window).permute(0, 2, 1, 4, 3)
        index = self.pivots[:, None, :, None].expand(batch, heads, -1, width)
        pivots = x.gather(2, index)[:, None].expand(-1, self.blocks, -1, -1, -1)
        return torch.cat([near, pivots], 3).flatten(0, 1)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """(b, heads, length, d), three times -> (b, heads, length, d)."""
        batch, heads, _, width = query.shape
        padded = F.pad(query, (0, 0, 0, self.blocks * self.window - self.length))
        blocks = padded.view(batch, heads, self.blocks, self.window, width).transpose(1, 2).flatten(0, 1)
        mask = self.mask.expand(batch, -1, -1, -1, -1).flatten(0, 1).to(query.dtype)
        out = F.scaled_dot_product_attention(blocks, self._blocks(key), self._blocks(value), mask, dropout)
        out = out.view(batch, self.blocks, heads, self.window, width).transpose(1, 2)
        return out.reshape(batch, heads, -1, width)[:, :, : self.length]
