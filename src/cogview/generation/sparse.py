"""Generation with three-region sparse attention, as in the released inference code (``is_sparse=2``).

A new token attends to the last window * times tokens; of earlier tokens, to all of the text and to random
image tokens (pivots), sampled again for every layer and token: of m image tokens, m * pivots / positions.
Each image has its own random stream, so that the result does not depend on the batch. The released code
computes the number of pivots from the longest text of a batch; here each row has its own number, which is the
same for rows of one prompt.
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


def sample_recent_pivots(text: Tensor, image: Tensor, ratio: float, random: Tensor) -> tuple[Tensor, Tensor]:
    """Sample pivots among the tokens before the window.

    Args:
        text, image: bool (b, left), the type of each token; both are False for padding.
        ratio: number of pivots per image token.
        random: (layers, b, left) random numbers in [0, 1).

    Returns:
        (layers, b, n) int64, and a bool mask of the same shape: rows with fewer than n pivots are padded.
    """
    texts, images = text.sum(-1), image.sum(-1)
    counts = texts + (images.double() * ratio).long()  # (b,)
    n = int(counts.max())
    ranks = random.masked_fill(text, 2.0).masked_fill(~(text | image), -1.0)
    pivots = ranks.topk(n, dim=-1).indices
    valid = torch.arange(n, device=text.device) < counts[:, None]
    return pivots, valid.expand(len(random), -1, -1)


@dataclass(frozen=True)
class Sparse:
    """The engine's settings for sparse attention: the pattern, and the number of image codes."""

    config: ThreeRegionConfig
    image_codes: int

    def visibility(
        self,
        prompts: Sequence[NDArray[np.int64]],
        pairs: Sequence[tuple[int, int]],
        generated: slice,
        capacity: int,
        base: Visibility,
        model: TransformerConfig,
        device: torch.device,
    ) -> Visibility:
        """The attention pattern of a batch.

        Args:
            prompts: the ids (n,) of each row, which are padded on the left to the longest.
            generated: the vocabulary's rows of the tokens that follow, up to ``capacity``.
            pairs, base: as in :class:`SparsePattern`.
        """
        generates_image = generated.stop <= self.image_codes
        image = torch.full((len(prompts), capacity), generates_image, device=device)
        text, longest = ~image, max(map(len, prompts))
        for row, ids in enumerate(prompts):
            is_code = torch.from_numpy(ids).to(device) < self.image_codes
            text[row, :longest], image[row, :longest] = False, False
            span = slice(longest - len(ids), longest)
            text[row, span], image[row, span] = ~is_code, is_code
        pairs = [pairs[row % len(pairs)] for row in range(len(prompts))]  # guidance has two rows per image
        return SparsePattern(self.config, text, image, base, pairs, model.layers, model.max_positions)


class SparsePattern(Visibility):
    """The attention pattern of a batch during generation.

    text, image: bool (b, capacity), the type of each token, also of those to come; both are False for
    padding, which ``base`` hides. base: the attention mask while all tokens fit into the window. pairs:
    (seed, index) of each row's random stream.
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
        self.start = (~(text | image)).cumprod(-1).sum(-1).tolist()  # length of the left padding
        keys = stream_keys(pairs, 1)[0]
        self.generators = [torch.Generator().manual_seed(int(key) >> 1) for key in keys]
        self._keys, self._pattern = -1, Recent(self.span, torch.empty(0, 0, dtype=torch.int64))

    @property
    def varies_by_layer(self) -> bool:
        return True

    def pattern(self, keys: int) -> Recent:
        """The pattern at this length; its pivots are sampled at the first call and cached."""
        if keys != self._keys:
            left = keys - self.span
            random = torch.zeros(self.layers, len(self.start), left)
            for row, (start, generator) in enumerate(zip(self.start, self.generators, strict=True)):
                if start < left:
                    random[:, row, start:] = torch.rand(self.layers, left - start, generator=generator)
            text, image = self.text[:, :left], self.image[:, :left]
            pivots, valid = sample_recent_pivots(text, image, self.ratio, random.to(text.device))
            ragged = not bool(valid.all())
            self._keys, self._pattern = keys, Recent(self.span, pivots, valid if ragged else None)
        return self._pattern

    def dense_mask(self, queries: int, keys: int, device: torch.device | None = None) -> Tensor:
        if keys <= self.span or queries > self.span:
            return self.base.dense_mask(queries, keys, device)
        return self.pattern(keys).at(0).dense_mask(queries, keys, device)

    def dense_view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if keys <= self.span or queries > self.span:
            return self.base.dense_view(queries, keys, device, layer)
        return self.pattern(keys).dense_view(queries, keys, device, layer)

    def view(self, queries: int, keys: int, device: torch.device | None = None, layer: int = 0) -> View:
        if keys <= self.span or queries > self.span:
            return self.base.view(queries, keys, device, layer)
        return self.pattern(keys).view(queries, keys, device, layer)
