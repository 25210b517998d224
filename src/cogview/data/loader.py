"""Batches of (codes, text) from token shards for the transformer, and of images for the image tokenizer.

Both loaders yield ``(batch, state)``; ``state`` is plain JSON and means "this batch has been used". A loader
with the same arguments that is given the state continues with the next batch. With all weights 1 an epoch
yields every item exactly once, wherever and however often it is interrupted.

The caption of an item is sampled again in each epoch: first a language, then whether to use a keyword instead
of the sentence and whether to use the style phrase, then one of the remaining captions (CogView samples
Chinese texts only; the style phrase "an image in style S" is that of section 4.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired, Self, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from cogview.config import Config
from cogview.data.image_cache import ImageCache
from cogview.data.samples import KINDS
from cogview.data.shards import TokenShards
from cogview.data.weighting import EpochLoader, bucketed, draws, generator, plan_hash, plan_text, read_state
from cogview.errors import CogViewError

PLAIN, STYLED, KEYWORD, REWORDED = range(len(KINDS))


class TokenBatch(TypedDict):
    """``codes`` (batch, h * w) int64; ``texts`` one list of text tokens (0-based) per row; ``items`` numbers;
    ``languages`` of the texts, None for an empty one.

    ``context`` (batch, h * w) int64: the small images, or parts of them, for super-resolution.

    A rank without rows of a batch gets the first row with empty ``items``: a placeholder without loss.
    """

    codes: Tensor
    context: NotRequired[Tensor]
    texts: list[list[int]]
    items: list[int]
    languages: NotRequired[list[str | None]]


class ImageBatch(TypedDict):
    """``images`` (batch, 3, size, size) uint8; ``items`` their numbers in the cache (see TokenBatch);
    ``whole`` the number of rows of the batch on all ranks."""

    images: Tensor
    items: list[int]
    whole: int


class Mixture(Config):
    """How often items and captions are sampled.

    ``weights`` (by source, default 1): how often each of its items occurs per epoch. ``languages``: relative
    probabilities (empty = all equal; a language that is not listed is only used if an item has no other).
    ``style`` is the probability of the caption with the style phrase, if there is one, ``keyword`` that of a
    keyword instead of a caption, ``reworded`` that of another wording of a plain caption, if there is one;
    each is one number, or one per source (0 for sources that are not listed). ``dropout`` is the probability
    of dropping each text token, though never all of them; ``empty`` that of dropping the entire text, for
    classifier-free guidance.
    """

    weights: dict[str, float] = Field(default_factory=dict)
    languages: dict[str, float] = Field(default_factory=dict)
    style: float | dict[str, float] = 0.5
    keyword: float | dict[str, float] = 0.0
    reworded: float | dict[str, float] = 0.5
    dropout: float = Field(default=0.0, ge=0, le=0.5)
    empty: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        for name, value in (("style", self.style), ("keyword", self.keyword), ("reworded", self.reworded)):
            probabilities = value.values() if isinstance(value, dict) else [value]
            if any(not 0 <= probability <= 1 for probability in probabilities):
                raise ValueError(f"{name} must be a probability, 0 to 1")
        if any(value < 0 for value in [*self.weights.values(), *self.languages.values()]):
            raise ValueError("weights and language probabilities must not be negative")
        return self


def _by_source(probability: float | dict[str, float], sources: Sequence[str]) -> NDArray[np.float64]:
    values = probability if isinstance(probability, dict) else dict.fromkeys(sources, probability)
    return np.array([values.get(source, 0.0) for source in sources], dtype=np.float64)


@dataclass(frozen=True)
class TokenEpoch:
    """The plan of an epoch: the item and caption row (-1 = empty text) of every sample, and the batches.

    seeds: (samples,) int64, for the dropout of text tokens.
    corners: (samples, 2) float64 in [0, 1), the relative position of a crop in its image.
    """

    items: NDArray[np.int64]
    captions: NDArray[np.int64]
    seeds: NDArray[np.int64]
    corners: NDArray[np.float64]
    batches: list[NDArray[np.int64]]


def shared_out(rows: NDArray[np.int64], rank: int, world: int) -> tuple[NDArray[np.int64], bool]:
    """A rank's rows of a batch and True; without any, the first row as a placeholder and False."""
    selected = rows[rank::world]
    return (selected, True) if len(selected) else (rows[:1], False)


def thinned(tokens: list[int], dropout: float, seed: int) -> list[int]:
    """Drop text tokens at random, all but at least one; a function of the seed."""
    if not dropout or not tokens:
        return tokens
    noise = np.random.Generator(np.random.Philox(seed)).random(len(tokens))
    return [
        token for token, value in zip(tokens, noise, strict=True) if value >= dropout or value == noise.max()
    ]


class TokenLoader(EpochLoader[TokenEpoch, TokenBatch]):
    """Shuffled batches of a built data set, endless or for ``epochs``.

    ``rank`` of ``world`` takes every ``world``-th row of each batch of ``batch`` rows, so the state is the
    same on all ranks and a run may resume on another number of them. ``text_limit`` truncates longer texts.
    Every ``window`` batches are sorted by text length together. The last batch of an epoch may be smaller.

    ``crop`` (rows, columns), for a super-resolution data set: yields a window of this many codes with the
    corresponding part of the small image, sampled again in each epoch.
    """

    def __init__(
        self,
        shards: TokenShards,
        batch: int,
        *,
        seed: int = 0,
        splits: Sequence[str] | None = ("train",),
        sources: Sequence[str] | None = None,
        mixture: Mixture | None = None,
        text_limit: int | None = None,
        window: int = 64,
        crop: tuple[int, int] | None = None,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.shards, self.batch, self.seed, self.window = shards, batch, seed, window
        self.crop = None if crop is None else Crop(shards, crop)
        self.rank, self.world, self.text_limit = rank, world, text_limit
        self.mixture = mixture or Mixture()
        self.items = shards.select(splits, sources)
        self._check()
        settings = plan_text(batch, seed, splits, sources, text_limit, window, *([crop] if crop else []))
        super().__init__(
            read_state(state, plan_hash(shards.index.fingerprint, self._mixture_text(), settings)),
            epochs,
        )

    def _mixture_text(self) -> str:
        """The mixture as text; states of runs from before ``dropout`` was introduced stay valid."""
        return self.mixture.model_dump_json(exclude=None if self.mixture.dropout else {"dropout"})

    def _check(self) -> None:
        if len(self.items) == 0:
            raise CogViewError(f"{self.shards.directory} has no items in the chosen splits and sources")
        for field, value, known in (
            ("weights", self.mixture.weights, self.shards.sources),
            ("style", self.mixture.style, self.shards.sources),
            ("keyword", self.mixture.keyword, self.shards.sources),
            ("languages", self.mixture.languages, self.shards.languages),
        ):
            unknown = [name for name in value if name not in known] if isinstance(value, dict) else []
            if unknown:
                raise CogViewError(
                    f"mixture.{field}: {unknown[0]!r} is not in the data; it has {', '.join(known)}"
                )
        if not (self._weights() > 0).any():
            raise CogViewError("mixture.weights: every source has weight 0; give one a positive weight")

    def _weights(self) -> NDArray[np.float64]:
        by_source = np.array(
            [self.mixture.weights.get(name, 1.0) for name in self.shards.sources], dtype=np.float64
        )
        weights: NDArray[np.float64] = by_source[self.shards.item_sources[self.items]]
        return weights

    @cached_property
    def captions(self) -> CaptionTable:
        """The caption table of all items."""
        return CaptionTable(self.shards)

    def plan(self, epoch: int) -> TokenEpoch:
        """Plan an epoch: sample items and captions, and divide them into batches."""
        items = self.items[draws(self._weights(), self.seed, epoch)]
        captions = self.captions.choose(items, self.mixture, generator(self.seed, epoch, "captions"))
        lengths = np.where(captions >= 0, self.shards.lengths[captions], 0)
        if self.text_limit is not None:
            lengths = np.minimum(lengths, self.text_limit)
        batches = bucketed(lengths, self.batch, self.window, generator(self.seed, epoch, "batches"))
        seeds = generator(self.seed, epoch, "dropout").integers(0, 2**62, len(items))
        corners = generator(self.seed, epoch, "corners").random((len(items), 2))
        return TokenEpoch(items, captions, seeds, corners, batches)

    def count(self, plan: TokenEpoch) -> int:
        """The number of batches of an epoch."""
        return len(plan.batches)

    def read(self, plan: TokenEpoch, batch: int) -> TokenBatch:
        """Read this rank's rows of one batch."""
        rows, has_rows = shared_out(plan.batches[batch], self.rank, self.world)
        items = plan.items[rows]
        batch_items = items.tolist() if has_rows else []
        texts = [self._text(int(plan.captions[row]), int(plan.seeds[row])) for row in rows]
        if self.crop is None:
            codes = torch.from_numpy(self.shards.codes(items))
            languages = [self._language(int(caption)) for caption in plan.captions[rows]]
            return {"codes": codes, "texts": texts, "items": batch_items, "languages": languages}
        codes, context = self.crop(items, plan.corners[rows])
        return {"codes": codes, "context": context, "texts": texts, "items": batch_items}

    def _language(self, caption: int) -> str | None:
        return self.shards.languages[self.shards.languages_of[caption]] if caption >= 0 else None

    def _text(self, caption: int, seed: int) -> list[int]:
        tokens = self.shards.pieces(caption)[: self.text_limit] if caption >= 0 else []
        return thinned(tokens, self.mixture.dropout, seed)


class Crop:
    """Windows of images with the corresponding parts of the small images; raises CogViewError if none fits.

    size: rows and columns of a window, in codes of the large image. Corners are aligned to codes of the small
    image, so both parts show the same.
    """

    def __init__(self, shards: TokenShards, size: tuple[int, int]) -> None:
        shards.context([])  # raises if there are no small images
        grid, small = shards.index.grid, shards.index.context_grid or shards.index.grid
        self.scale = grid[0] // small[0]
        fits = all(side % self.scale == 0 and side <= total for side, total in zip(size, grid, strict=True))
        if not fits:
            raise CogViewError(
                f"{shards.directory}: no window of {size[0]} x {size[1]} codes in its {grid[0]} x {grid[1]}; "
                f"give multiples of {self.scale}, at most as large"
            )
        self.shards, self.size = shards, size
        self.context_size = (size[0] // self.scale, size[1] // self.scale)

    def __call__(self, items: NDArray[np.int64], corners: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Codes (n, h * w) of each item's window and of the corresponding part of the small image, int64."""
        grid, small = self.shards.index.grid, self.shards.index.context_grid or (0, 0)
        choices = np.array([total - side for total, side in zip(small, self.context_size, strict=True)]) + 1
        first = (corners * choices).astype(np.int64)  # (n, 2) in codes of the small image
        codes = _cut(self.shards.codes(items), grid, first * self.scale, self.size)
        return codes, _cut(self.shards.context(items), small, first, self.context_size)


def _cut(
    codes: NDArray[np.int64], grid: tuple[int, int], first: NDArray[np.int64], size: tuple[int, int]
) -> Tensor:
    """Windows (n, rows * columns) of images (n, h * w), with upper left corners ``first`` (n, 2)."""
    rows, columns = (first[:, i, None] + np.arange(size[i]) for i in (0, 1))
    at = (rows[:, :, None] * grid[1] + columns[:, None, :]).reshape(len(codes), size[0] * size[1])
    return torch.from_numpy(np.take_along_axis(codes, at, 1))


class CaptionTable:
    """Counts and rows of every item's captions by language and kind, for vectorised sampling.

    ``counts`` is (items, languages, kinds); ``starts`` the first caption row of each group.
    """

    def __init__(self, shards: TokenShards) -> None:
        languages, kinds = max(1, len(shards.languages)), len(KINDS)
        owner = np.repeat(np.arange(len(shards)), shards.caption_count)
        group = (owner * languages + shards.languages_of) * kinds + shards.kinds_of
        counts = np.bincount(group, minlength=len(shards) * languages * kinds).astype(np.int64)
        self.starts = (np.cumsum(counts) - counts).reshape(len(shards), languages, kinds)
        self.counts = counts.reshape(len(shards), languages, kinds)
        self.languages, self.sources, self.item_sources = (
            shards.languages,
            shards.sources,
            shards.item_sources,
        )

    def choose(
        self, items: NDArray[np.int64], mixture: Mixture, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Sample a caption row for each of ``items``, -1 for an empty text: int64."""
        uniform = rng.random((5, len(items)))
        language = self._language(items, mixture, uniform[0])
        counts = self.counts[items, language]  # (draws, kinds)
        sources = self.item_sources[items]
        style, keyword, reworded = (
            _by_source(probability, self.sources)[sources]
            for probability in (mixture.style, mixture.keyword, mixture.reworded)
        )
        kind = np.where(uniform[1] < style, STYLED, PLAIN)
        kind = np.where(uniform[2] < keyword, KEYWORD, kind)
        other = (kind == PLAIN) & (rng.random(len(items)) < reworded)
        kind = np.where(other & (counts[:, REWORDED] > 0), REWORDED, kind)
        kind = _available(kind, counts)
        rows = np.arange(len(items))
        count = counts[rows, kind]
        first: NDArray[np.int64] = self.starts[items, language, kind]
        captions = first + (uniform[3] * count).astype(np.int64)
        return np.where((uniform[4] < mixture.empty) | (count == 0), -1, captions)

    def _language(
        self, items: NDArray[np.int64], mixture: Mixture, uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        present = self.counts[items].sum(-1) > 0  # (draws, languages)
        weights = np.array([mixture.languages.get(name, 0.0) for name in self.languages])
        weights = weights if mixture.languages else np.ones(len(self.languages))
        probabilities = present * weights
        probabilities = np.where(probabilities.sum(-1, keepdims=True) > 0, probabilities, present)
        limits = np.cumsum(probabilities, -1)
        language: NDArray[np.int64] = (uniform[:, None] * limits[:, -1:] >= limits).sum(-1)
        return np.minimum(language, len(self.languages) - 1)


def _available(kind: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sampled kind if the item has it, else the first that it has of plain, styled, keyword, reworded."""
    rows = np.arange(len(kind))
    fallback = np.argmax(counts > 0, axis=-1)
    return np.where(counts[rows, kind] > 0, kind, fallback)


class ImageLoader(EpochLoader[NDArray[np.int64], ImageBatch]):
    """Shuffled batches of an image cache, endless or for ``epochs``, for training an image tokenizer.

    ``weights`` by source as in :class:`Mixture`; ``rank`` and ``world`` as in :class:`TokenLoader`.
    """

    def __init__(
        self,
        cache: ImageCache,
        batch: int,
        *,
        seed: int = 0,
        splits: Sequence[str] | None = ("train",),
        sources: Sequence[str] | None = None,
        weights: Mapping[str, float] | None = None,
        epochs: int | None = None,
        rank: int = 0,
        world: int = 1,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.cache, self.batch, self.seed, self.rank, self.world = cache, batch, seed, rank, world
        self.weights = dict(weights or {})
        self.items = cache.select(splits, sources)
        if len(self.items) == 0:
            raise CogViewError(f"{cache.directory} has no images in the chosen splits and sources")
        settings = plan_text(batch, seed, splits, sources, sorted(self.weights.items()))
        super().__init__(read_state(state, plan_hash(cache.fingerprint, settings)), epochs)

    def plan(self, epoch: int) -> NDArray[np.int64]:
        """The items of an epoch, in order."""
        weights = np.array([self.weights.get(name, 1.0) for name in self.cache.sources])
        order: NDArray[np.int64] = draws(weights[self.cache.item_sources[self.items]], self.seed, epoch)
        return self.items[order]

    def count(self, plan: NDArray[np.int64]) -> int:
        """The number of batches of an epoch."""
        return -(-len(plan) // self.batch)

    def read(self, plan: NDArray[np.int64], batch: int) -> ImageBatch:
        """Read this rank's rows of one batch."""
        rows = plan[batch * self.batch : (batch + 1) * self.batch]
        items, has_rows = shared_out(rows, self.rank, self.world)
        batch_items = items.tolist() if has_rows else []
        return {"images": self.cache.images(items), "items": batch_items, "whole": len(rows)}
