"""Batches of (codes, text) from token shards for the transformer, and of images for the image tokenizer.

Both loaders yield ``(batch, state)``; ``state`` is plain JSON and stands for "this batch has been used".
Give it to a loader made with the same arguments and it continues with the next batch. With all weights 1 an
epoch hands out every item exactly once, wherever and how often it is stopped.

Which caption an item shows is chosen again in each epoch: a language, then a keyword in place of the
sentence, then with or without the style phrase, then one of what is left (CogView draws Chinese texts only;
the style phrase "an image in style S" is section 4.2's).
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
    """``codes`` (batch, h * w) int64; ``texts`` one list of text tokens (0-based) a row; ``items`` ids;
    ``languages`` of the texts, None for an empty one.

    ``context`` (batch, h * w) int64: the small images, or their parts, for super-resolution.

    A rank for which a batch has no row gets the first one with ``items`` empty: a stand-in, not to be learnt.
    """

    codes: Tensor
    context: NotRequired[Tensor]
    texts: list[list[int]]
    items: list[int]
    languages: NotRequired[list[str | None]]


class ImageBatch(TypedDict):
    """``images`` (batch, 3, size, size) uint8; ``items`` their numbers in the cache (see TokenBatch);
    ``whole`` the rows of the batch on all ranks together."""

    images: Tensor
    items: list[int]
    whole: int


class Mixture(Config):
    """What is drawn how often.

    ``weights`` (by source, default 1): draws an epoch of each of its items. ``languages``: relative
    probabilities (empty = all equal; a language not named is not drawn unless an item has nothing else).
    ``style`` is the probability of the caption with the style phrase where there is one, ``keyword`` that
    of a keyword in its place, ``reworded`` that of another wording of a plain caption where it has some; each
    is one number, or one by source (sources not named: 0). ``dropout`` leaves each text token out with this
    probability, though never all of them; ``empty`` drops the text altogether, for classifier-free guidance.
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
            chances = value.values() if isinstance(value, dict) else [value]
            if any(not 0 <= chance <= 1 for chance in chances):
                raise ValueError(f"{name} must be a probability, 0 to 1")
        if any(value < 0 for value in [*self.weights.values(), *self.languages.values()]):
            raise ValueError("weights and language probabilities must not be negative")
        return self


def _by_source(chance: float | dict[str, float], sources: Sequence[str]) -> NDArray[np.float64]:
    given = chance if isinstance(chance, dict) else dict.fromkeys(sources, chance)
    return np.array([given.get(source, 0.0) for source in sources], dtype=np.float64)


@dataclass(frozen=True)
class TokenEpoch:
    """One epoch worked out: the item and the caption row (-1 = empty text) of every draw, and the batches.

    seeds: (draws,) int64, for which tokens of the caption are left out.
    corners: (draws, 2) float64 in [0, 1), where a crop lies in its image.
    """

    items: NDArray[np.int64]
    captions: NDArray[np.int64]
    seeds: NDArray[np.int64]
    corners: NDArray[np.float64]
    batches: list[NDArray[np.int64]]


def shared_out(rows: NDArray[np.int64], rank: int, world: int) -> tuple[NDArray[np.int64], bool]:
    """The rows of a batch that fall to a rank; where none do, the first as a stand-in, and False."""
    own = rows[rank::world]
    return (own, True) if len(own) else (rows[:1], False)


def thinned(pieces: list[int], dropout: float, seed: int) -> list[int]:
    """The tokens without those that chance leaves out, one at least; the same for the same seed."""
    if not dropout or not pieces:
        return pieces
    drawn = np.random.Generator(np.random.Philox(seed)).random(len(pieces))
    return [
        piece for piece, value in zip(pieces, drawn, strict=True) if value >= dropout or value == drawn.max()
    ]


class TokenLoader(EpochLoader[TokenEpoch, TokenBatch]):
    """Endless (or ``epochs``) shuffled batches of a built data set.

    ``rank`` of ``world`` takes every ``world``-th row of each batch of ``batch`` rows, so the state is the
    same on all ranks and a run may resume on another number of them. ``text_limit`` cuts longer texts.
    ``window`` batches are sorted by text length together. The last batch of an epoch may be smaller.

    ``crop`` (rows, columns), for a data set of super-resolution: not the whole image but a window of so
    many codes, with that part of the small image which lies under it; chosen again in each epoch.
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
        """The mixture as text; states of runs from before there was ``dropout`` stay valid."""
        return self.mixture.model_dump_json(exclude=None if self.mixture.dropout else {"dropout"})

    def _check(self) -> None:
        if len(self.items) == 0:
            raise CogViewError(f"{self.shards.directory} has no items in the chosen splits and sources")
        for field, given, known in (
            ("weights", self.mixture.weights, self.shards.sources),
            ("style", self.mixture.style, self.shards.sources),
            ("keyword", self.mixture.keyword, self.shards.sources),
            ("languages", self.mixture.languages, self.shards.languages),
        ):
            unknown = [name for name in given if name not in known] if isinstance(given, dict) else []
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
        """The caption table of the chosen items."""
        return CaptionTable(self.shards)

    def plan(self, epoch: int) -> TokenEpoch:
        """Work an epoch out: every draw's item and caption, cut into batches."""
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
        """How many batches an epoch has."""
        return len(plan.batches)

    def read(self, plan: TokenEpoch, batch: int) -> TokenBatch:
        """Read this rank's rows of one batch."""
        rows, own = shared_out(plan.batches[batch], self.rank, self.world)
        items = plan.items[rows]
        batch_items = items.tolist() if own else []
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
        pieces = self.shards.pieces(caption)[: self.text_limit] if caption >= 0 else []
        return thinned(pieces, self.mixture.dropout, seed)


class Crop:
    """Windows of images with what lies under them in the small ones; CogViewError where none fits.

    size: rows and columns of a window, in codes of the large image. Corners are whole codes of the small
    image, so both parts show the same.
    """

    def __init__(self, shards: TokenShards, size: tuple[int, int]) -> None:
        shards.context([])  # raises where there are no small images
        grid, small = shards.index.grid, shards.index.context_grid or shards.index.grid
        self.scale = grid[0] // small[0]
        fits = all(side % self.scale == 0 and side <= whole for side, whole in zip(size, grid, strict=True))
        if not fits:
            raise CogViewError(
                f"{shards.directory}: no window of {size[0]} x {size[1]} codes in its {grid[0]} x {grid[1]}; "
                f"give multiples of {self.scale}, at most as large"
            )
        self.shards, self.size = shards, size
        self.context_size = (size[0] // self.scale, size[1] // self.scale)

    def __call__(self, items: NDArray[np.int64], corners: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Codes (n, h * w) of each item's window, and of the small image under it, both int64."""
        grid, small = self.shards.index.grid, self.shards.index.context_grid or (0, 0)
        choices = np.array([whole - side for whole, side in zip(small, self.context_size, strict=True)]) + 1
        first = (corners * choices).astype(np.int64)  # (n, 2) in codes of the small image
        codes = _cut(self.shards.codes(items), grid, first * self.scale, self.size)
        return codes, _cut(self.shards.context(items), small, first, self.context_size)


def _cut(
    codes: NDArray[np.int64], grid: tuple[int, int], first: NDArray[np.int64], size: tuple[int, int]
) -> Tensor:
    """Windows (n, rows * columns) of images (n, h * w), their upper left corners at ``first`` (n, 2)."""
    rows, columns = (first[:, i, None] + np.arange(size[i]) for i in (0, 1))
    at = (rows[:, :, None] * grid[1] + columns[:, None, :]).reshape(len(codes), size[0] * size[1])
    return torch.from_numpy(np.take_along_axis(codes, at, 1))


class CaptionTable:
    """Counts and places of every item's captions by language and kind, to draw them without a loop.

    ``counts`` is (items, languages, kinds); ``starts`` the first caption row of each such group.
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
        """A caption row for each of ``items``, or -1 for an empty text: int64."""
        uniform = rng.random((5, len(items)))
        language = self._language(items, mixture, uniform[0])
        counts = self.counts[items, language]  # (draws, kinds)
        sources = self.item_sources[items]
        style, keyword, reworded = (
            _by_source(chance, self.sources)[sources]
            for chance in (mixture.style, mixture.keyword, mixture.reworded)
        )
        kind = np.where(uniform[1] < style, STYLED, PLAIN)
        kind = np.where(uniform[2] < keyword, KEYWORD, kind)
        other = (kind == PLAIN) & (rng.random(len(items)) < reworded)
        kind = np.where(other & (counts[:, REWORDED] > 0), REWORDED, kind)
        kind = _available(kind, counts)
        rows = np.arange(len(items))
        count = counts[rows, kind]
        chosen: NDArray[np.int64] = self.starts[items, language, kind] + (uniform[3] * count).astype(np.int64)
        return np.where((uniform[4] < mixture.empty) | (count == 0), -1, chosen)

    def _language(
        self, items: NDArray[np.int64], mixture: Mixture, uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        present = self.counts[items].sum(-1) > 0  # (draws, languages)
        wanted = np.array([mixture.languages.get(name, 0.0) for name in self.languages])
        wanted = wanted if mixture.languages else np.ones(len(self.languages))
        chances = present * wanted
        chances = np.where(chances.sum(-1, keepdims=True) > 0, chances, present)
        limits = np.cumsum(chances, -1)
        language: NDArray[np.int64] = (uniform[:, None] * limits[:, -1:] >= limits).sum(-1)
        return np.minimum(language, len(self.languages) - 1)


def _available(kind: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The wanted kind where the item has it, else plain, styled, keyword, the first it has."""
    rows = np.arange(len(kind))
    fallback = np.argmax(counts > 0, axis=-1)
    return np.where(counts[rows, kind] > 0, kind, fallback)


class ImageLoader(EpochLoader[NDArray[np.int64], ImageBatch]):
    """Endless (or ``epochs``) shuffled batches of an image cache, for training an image tokenizer.

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
            raise CogViewError(f"{cache.directory} has no pictures in the chosen splits and sources")
        settings = plan_text(batch, seed, splits, sources, sorted(self.weights.items()))
        super().__init__(read_state(state, plan_hash(cache.fingerprint, settings)), epochs)

    def plan(self, epoch: int) -> NDArray[np.int64]:
        """The items of an epoch, in order."""
        weights = np.array([self.weights.get(name, 1.0) for name in self.cache.sources])
        order: NDArray[np.int64] = draws(weights[self.cache.item_sources[self.items]], self.seed, epoch)
        return self.items[order]

    def count(self, plan: NDArray[np.int64]) -> int:
        """How many batches an epoch has."""
        return -(-len(plan) // self.batch)

    def read(self, plan: NDArray[np.int64], batch: int) -> ImageBatch:
        """Read this rank's rows of one batch."""
        whole = plan[batch * self.batch : (batch + 1) * self.batch]
        items, own = shared_out(whole, self.rank, self.world)
        named = items.tolist() if own else []
        return {"images": self.cache.images(items), "items": named, "whole": len(whole)}
