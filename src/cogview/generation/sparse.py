"""Drawing with three-region sparse attention: the released inference form (``is_sparse=2``).

A new token sees the last window * times tokens; of those further back all of the text and image tokens drawn
at random, again for every layer and token: of m tokens that are no text, m times pivots / positions. Pivots
count for themselves only. As everywhere, chance is a stream for each image, so that it does not depend on
the batch; the released code takes the number of pivots from the longest text of a batch, here each row has
its own, which is the same for rows of one prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cogview.generation.without_model import stream_keys
from cogview.transformer.attention import Recent, View, Visibility
from cogview.transformer.config import ThreeRegionConfig, TransformerConfig


def sample_recent_pivots(text: Tensor, image: Tensor, ratio: float, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Pivots before the window.

    Args:
        text, image: bool (b, left), what each token is; neither for padding.
        ratio: pivots for each token that is not text.
        chance: (layers, b, left) random numbers in [0, 1).

    Returns:
        (layers, b, n) int64, and bool of the same shape: rows with fewer pivots than n end with some that
        are none.
    """
    texts, images = text.sum(-1), image.sum(-1)
    counts = texts + (images.double() * ratio).long()  # (b,)
    n = int(counts.max())
    ranked = chance.masked_fill(text, 2.0).masked_fill(~(text | image), -1.0)
    pivots = ranked.topk(n, dim=-1).indices
    seen = torch.arange(n, device=text.device) < counts[:, None]
    return pivots, seen.expand(len(chance), -1, -1)


@dataclass(frozen=True)
class Sparse:
    """What an engine must know to draw with sparse attention: the pattern, and the number of image codes."""

    config: ThreeRegionConfig
    image_codes: int

    def visibility(
        self,
        prompts: Sequence[NDArray[np.int64]],
        pairs: Sequence[tuple[int, int]],
        drawn: slice,
        capacity: int,
        base: Visibility,
        model: TransformerConfig,
        device: torch.device,
    ) -> Visibility:
        """Of a batch: ``prompts`` the ids (n,) of each row, padded in front to the longest, then tokens of
        the vocabulary's rows ``drawn`` up to ``capacity``; the others as in :class:`SparseDrawing`."""
        draws_image = drawn.stop <= self.image_codes
        image = torch.full((len(prompts), capacity), draws_image, device=device)
        text, longest = ~image, max(map(len, prompts))
        for row, ids in enumerate(prompts):
            given = torch.from_numpy(ids).to(device) < self.image_codes
            text[row, :longest], image[row, :longest] = False, False
            text[row, longest - len(ids) : longest], image[row, longest - len(ids) : longest] = ~given, given
        pairs = [pairs[row % len(pairs)] for row in range(len(prompts))]  # guidance has two rows an image
        return SparseDrawing(self.config, text, image, base, pairs, model.layers, model.max_positions)


class SparseDrawing(Visibility):
    """The pattern of a batch while it is drawn.

    text, image: bool (b, capacity), what each token is or will be; neither is padding, which ``base`` hides.
    base: who sees whom while the window holds all. pairs: (seed, index) of each row's random stream.
    """

    def __init__(
        self,
        config: ThreeRegionConfig,
        text: Tensor,
        image: Tensor,
        base: Visibility,
        pairs: Sequence[tuple[int, int]],
        layers: int,
        positions: int,
    ) -> None:
        self.span, self.ratio = config.span, min(1.0, config.pivots / positions)
        self.text, self.image, self.base, self.layers = text, image, base, layers
        self.start = (~(text | image)).cumprod(-1).sum(-1).tolist()  # padding stands before everything
        keys = stream_keys(pairs, 1)[0]
        self.generators = [torch.Generator().manual_seed(int(key) >> 1) for key in keys]
        self._keys, self._form = -1, Recent(self.span, torch.empty(0, 0, dtype=torch.int64))

    @property
    def varies_by_layer(self) -> bool:
        return True

    def form(self, keys: int) -> Recent:
        """The pattern at this length, with pivots drawn the first time it is asked for."""
        if keys != self._keys:
            left = keys - self.span
            chance = torch.zeros(self.layers, len(self.start), left)
            for row, (start, generator) in enumerate(zip(self.start, self.generators, strict=True)):
                if start < left:
                    chance[:, row, start:] = torch.rand(self.layers, left - start, generator=generator)
            text, image = self.text[:, :left], self.image[:, :left]
            pivots, seen = sample_recent_pivots(text, image, self.ratio, chance.to(text.device))
            ragged = not bool(seen.all())
            self._keys, self._form = keys, Recent(self.span, pivots, seen if ragged else None)
        return self._form

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        if keys <= self.span or queries > self.span:
            return self.base.dense_mask(queries, keys, device)
        return self.form(keys).at(0).dense_mask(queries, keys, device)

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if keys <= self.span or queries > self.span:
            return self.base.dense_view(queries, keys, device, layer)
        return self.form(keys).dense_view(queries, keys, device, layer)

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if keys <= self.span or queries > self.span:
            return self.base.view(queries, keys, device, layer)
        return self.form(keys).view(queries, keys, device, layer)
