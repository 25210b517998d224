"""Three-region sparse attention (CogView, appendix B): a window, the text, and sampled image tokens.

The sequence is split into blocks of ``window`` tokens. A query sees, causally, its own block and the
``times - 1`` blocks before it; of earlier tokens it sees only the *pivots*: the whole text and randomly
sampled image tokens, resampled for every layer. Pivots represent the tokens that were not sampled, so
log(length // pivots) is added to their scores.
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.transformer.attention.pattern import Causal, View, Visibility, lower_triangle
from cogview.transformer.attention.tiles import Layout, TiledKernel
from cogview.transformer.config import ThreeRegionConfig

SHORT = 512  # tokens below which the dense mask in a fused kernel is faster than tiles


def sample_pivots(
    text: Tensor, image: Tensor, count: int, layers: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Sample the pivots of a batch: all text positions, and image positions without replacement.

    Args:
        text: bool (b, length), True for text and control tokens that are not padding.
        image: bool (b, length), True for image tokens.
        count: pivots per sequence.
        layers: number of independent samples.

    Returns:
        (layers, b, count) int64, sorted.

    Raises:
        CogViewError: a text has more tokens than there are pivots, or a sequence fewer tokens.
    """
    most, fewest = int(text.sum(-1).max()), int((text | image).sum(-1).min())
    if not most <= count <= fewest:
        raise CogViewError(
            f"{count} pivots: at least {most} are needed (the longest text), at most {fewest} are available"
        )
    priority = torch.rand(layers, *text.shape, generator=generator, device=text.device)
    priority = priority.masked_fill(text, 2.0).masked_fill(~(text | image), -1.0)
    return priority.topk(count, dim=-1).indices.sort(-1).values


def check_fits(config: ThreeRegionConfig, length: int, text: int, image: int) -> None:
    """Raise CogViewError if the pattern does not fit sequences of ``length`` tokens.

    text: maximum number of text and control tokens; image: minimum number of image tokens.
    """
    if config.span >= length:
        raise CogViewError(
            f"attention: a window of {config.window} x {config.times} sees all of the {length} tokens of a "
            "sequence; set a smaller attention.window, or attention: causal"
        )
    if not text <= config.pivots <= image:
        raise CogViewError(
            f"attention.pivots: {config.pivots}, but the text (up to {text} tokens) must be among them, and "
            f"there are {image} image tokens"
        )


class ThreeRegion(Visibility):
    """The pattern for training, with given pivots.

    window: tokens per block. times: blocks that a query sees, including its own. pivots: int64 (b, n), or
    (layers, b, n) for pivots that differ by layer, without duplicates.
    """

    def __init__(self, window: int, times: int, pivots: Tensor) -> None:
        self.window, self.times = window, times
        self.pivots = pivots

    @classmethod
    def sample(
        cls,
        config: ThreeRegionConfig,
        text: Tensor,
        image: Tensor,
        layers: int,
        generator: torch.Generator | None = None,
    ) -> ThreeRegion:
        """The pattern with pivots sampled for every layer; text, image: see :func:`sample_pivots`."""
        pivots = sample_pivots(text, image, config.pivots, layers, generator)
        return cls(config.window, config.times, pivots)

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
        """The bias added to the score of a pivot."""
        return math.log(self.ratio(length))

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        pattern = self.at(layer)
        return View(pattern.dense_mask(queries, keys, device), pattern.bias(queries, keys, device))

    def ratio(self, length: int) -> int:
        """The number of keys that a pivot represents."""
        return max(1, length // self.pivots.shape[-1])

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """Causal if the window covers all keys; a sparse kernel if the full sequence is read at once."""
        if keys <= self.times * self.window:
            return Causal().view(queries, keys, device)
        if queries != keys or keys < SHORT:
            return self.dense_view(queries, keys, device, layer)
        pattern = self.at(layer)
        pivots = pattern.pivots.to(device)
        shape = self.window, self.times, pivots, keys, self.ratio(keys)
        if pivots.device.type == "cuda" and find_spec("triton") is not None:
            from cogview.transformer.attention.flex import FlexKernel

            return View(kernel=FlexKernel(*shape))
        return View(kernel=TiledKernel(Layout(*shape)))


class Recent(Visibility):
    """The pattern for generation (released: ``is_sparse=2``): the last ``span`` keys, and given pivots.

    The window is not aligned to blocks, and pivots have no bias. A query sees, causally, the last ``span``
    keys, and of earlier ones only the pivots. pivots: int64 (b, n), or (layers, b, n), all before the window;
    ``seen``: bool of the same shape, False for padding among the pivots.
    """

    def __init__(self, span: int, pivots: Tensor, seen: Tensor | None = None) -> None:
        self.span, self.pivots, self.seen = span, pivots, seen

    @property
    def varies_by_layer(self) -> bool:
        return self.pivots.dim() == 3

    def at(self, layer: int) -> Recent:
        """The pattern of one layer."""
        if not self.varies_by_layer:
            return self
        return Recent(self.span, self.pivots[layer], None if self.seen is None else self.seen[layer])

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        index, left = torch.arange(keys, device=device), max(0, keys - self.span)
        assert queries <= keys - left, f"{queries} queries at once do not fit into a window of {self.span}"
        match = self.pivots.to(device)[:, :, None] == index
        pivot = (match if self.seen is None else match & self.seen.to(device)[:, :, None]).any(1)
        return (lower_triangle(queries, keys, device) & ((index >= left) | pivot[:, None]))[:, None]

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        return View(self.at(layer).dense_mask(queries, keys, device))

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        """A kernel that reads only the visible keys."""
        if keys <= self.span:
            return Causal().view(queries, keys, device)
        return View(kernel=GatherKernel(self.at(layer), queries, keys, device))


class GatherKernel:
    """Fused attention of the last queries over the gathered pivots and the window."""

    def __init__(self, pattern: Recent, queries: int, keys: int, device: torch.device | None) -> None:
        self.span, self.pivots = pattern.span, pattern.pivots.to(device)
        self.mask = None
        if queries > 1 or pattern.seen is not None:
            batch, n = self.pivots.shape
            seen = torch.ones(batch, n, dtype=torch.bool) if pattern.seen is None else pattern.seen
            window = lower_triangle(queries, self.span, device).expand(batch, -1, -1)
            parts = seen.to(window.device)[:, None].expand(-1, queries, -1), window
            self.mask = torch.cat(parts, -1)[:, None]  # (b, 1, queries, n + span)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
        """(b, heads, q, d), (b, heads, keys, d) twice -> (b, heads, q, d)."""
        index = self.pivots[:, None, :, None].expand(-1, key.shape[1], -1, key.shape[3])
        near = (x[:, :, -self.span :] for x in (key, value))
        key, value = (torch.cat([x.gather(2, index), y], 2) for x, y in zip((key, value), near, strict=True))
        return F.scaled_dot_product_attention(query, key, value, self.mask, dropout)
