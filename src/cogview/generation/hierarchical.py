"""CogView2's two super-resolution stages (section 3.3), on codes.

``direct_super_resolution`` samples all codes of the large image in one forward, independently of each other;
``iterative_super_resolution`` generates most of them again in a few forwards (:mod:`local_parallel`), so that
neighbours are consistent. Each image has its own random stream, so it is the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from cogview.errors import CogViewError
from cogview.generation import sampling
from cogview.generation.decoder import computing
from cogview.generation.engine import halving
from cogview.generation.local_parallel import (
    ROWS,
    Likelihoods,
    LocalParallel,
    Order,
    find_order,
)
from cogview.generation.pixel_prior import PixelLikelihood
from cogview.generation.sampling import Streams
from cogview.generation.two_stages import DIRECT, stage_stream, top_k_of
from cogview.sequences.super_resolution import DirectFormat, Inputs, IterativeFormat
from cogview.transformer.model import Transformer
from cogview.types import Ids, Precision, ProgressCallback, SamplingParams

Pairs = Sequence[tuple[int, int]]
Format = TypeVar("Format", DirectFormat, IterativeFormat)

BATCH = {"cpu": 4, "cuda": 16}


@dataclass(frozen=True)
class Upscaler(Generic[Format]):
    """A super-resolution model, its sequence format, the clusters (v,) int64 of its codes, if it has any, and
    the precision of its layers."""

    transformer: Transformer
    format: Format
    clusters: Tensor | None = None
    precision: Precision = "fp32"

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.transformer.tokens.weight.device

    def states(self, inputs: Inputs) -> Tensor:
        """Last hidden states (b, codes, h) of the large images; one forward."""
        inputs = inputs.to(self.device)
        with computing(self.precision, self.device):
            hidden: Tensor = self.transformer(inputs.ids, inputs.positions, inputs.visibility)
        return hidden[:, -self.format.codes :]

    def head(self, states: Tensor) -> Tensor:
        """Logits (m, image codes) of hidden states (m, h)."""
        table = self.transformer.tokens.weight
        return self.transformer.logits(states.to(table.dtype), slice(0, self.format.vocabulary.image_codes))


def direct_super_resolution(
    model: Upscaler[DirectFormat],
    text_ids: Sequence[ArrayLike],
    codes: ArrayLike | Tensor,
    *,
    pairs: Pairs | None = None,
    settings: SamplingParams | None = None,
    likelihoods: Sequence[PixelLikelihood] | None = None,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> Ids:
    """Generate the codes of large images from those of small ones, in one forward.

    Args:
        model: its transformer in evaluation mode.
        text_ids: the text tokens of each image (0-based); they may be empty.
        codes: (b, small rows * columns) or (b, rows, columns).
        pairs: (seed, index) of each image; default: seed 0 and the images' numbers.
        settings: default: the release's cluster sampling, or temperature 1 without clusters.
        likelihoods: the pixel prior of each image.
        batch_size: the largest batch; it does not change results.
        progress: called with the number of finished forwards, and their total.

    Returns:
        (b, rows * columns) int64.

    Raises:
        CogViewError: a text or an image does not fit the model.
    """
    settings = settings or (DIRECT if model.clusters is not None else SamplingParams())
    small = model.format.image_ids(codes, model.format.small[0] * model.format.small[1])

    def generate(batch: slice, streams: Streams, report: Callable[[], None]) -> Tensor:
        states = model.states(model.format.inputs(text_ids[batch], small[batch]))
        report()
        priors = _likelihoods(likelihoods, batch)
        rows = [_sample(model, row, settings, streams, i, priors) for i, row in enumerate(states)]
        return torch.stack(rows)

    return _in_batches(model, text_ids, small, pairs, batch_size, progress, ("direct", 1), generate)


def iterative_super_resolution(
    model: Upscaler[IterativeFormat],
    text_ids: Sequence[ArrayLike],
    codes: ArrayLike | Tensor,
    *,
    pairs: Pairs | None = None,
    order: str | Order = "released",
    settings: SamplingParams | Sequence[SamplingParams] | None = None,
    region: ArrayLike | Tensor | None = None,
    likelihoods: Sequence[PixelLikelihood] | None = None,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> Ids:
    """Generate most codes of large images again, in as many forwards as ``order`` has turns.

    Args:
        model, text_ids, pairs, likelihoods, batch_size, progress: as for :func:`direct_super_resolution`;
            long texts are truncated.
        codes: (b, rows * columns) or (b, rows, columns).
        order: a name of ``ORDERS``, or an order.
        settings: for all turns, or one for each; default: temperature 1 and the release's top-k.
        region: bool, of the codes' shape: the codes that may change.

    Returns:
        (b, rows * columns) int64.

    Raises:
        CogViewError: an image does not fit the model, or the number of settings is not that of the turns.
    """
    order = find_order(order) if isinstance(order, str) else order
    format, large = model.format, model.format.image_ids(codes, model.format.codes)
    settings = settings or [SamplingParams(top_k=top_k_of(t + 1, order.turns)) for t in range(order.turns)]
    mask = None if region is None else torch.as_tensor(region).bool().reshape(len(large), -1)
    if mask is not None and mask.shape != large.shape:
        raise CogViewError(f"a region of {mask.shape[1]} codes does not fit the image's {format.codes}")

    def generate(batch: slice, streams: Streams, report: Callable[[], None]) -> Tensor:
        start = large[batch].to(model.device)
        inside = None if mask is None else mask[batch].to(model.device)
        priors = _likelihoods(likelihoods, batch)
        state = LocalParallel(order, format.grid, start, streams, settings, inside, model.clusters, priors)
        while not state.done:
            inputs = format.inputs(text_ids[batch], state.codes.cpu(), state.hidden.cpu())
            state.step(model.states(inputs), model.head)
            report()
        return state.codes

    stage = ("iterative", order.turns)
    return _in_batches(model, text_ids, large, pairs, batch_size, progress, stage, generate)


Generate = Callable[[slice, Streams, Callable[[], None]], Tensor]


def _likelihoods(likelihoods: Sequence[PixelLikelihood] | None, batch: slice) -> Likelihoods | None:
    """The likelihoods of a batch, or None."""
    if likelihoods is None:
        return None
    selected = likelihoods[batch]
    return lambda image, places: selected[image].at(places)


def _sample(
    model: Upscaler[DirectFormat],
    states: Tensor,
    settings: SamplingParams,
    streams: Streams,
    image: int,
    likelihoods: Likelihoods | None = None,
) -> Tensor:
    """Sample the codes (n,) of one image independently, from its hidden states (n, h)."""
    sampled = []
    for places in torch.split(torch.arange(len(states), device=states.device), ROWS):
        logits = model.head(states[places]).float()
        if likelihoods is not None:
            logits = logits + likelihoods(image, places)
        noise = streams.gumbel_of(image, places, logits.shape[1])
        sampled.append(sampling.sample(logits, noise, settings, model.clusters))
    return torch.cat(sampled)


@torch.inference_mode()
def _in_batches(
    model: Upscaler[Format],
    texts: Sequence[ArrayLike],
    images: Tensor,
    pairs: Pairs | None,
    batch_size: int | None,
    progress: ProgressCallback | None,
    stage: tuple[str, int],
    generate: Generate,
) -> Ids:
    """Generate all images in batches; ``generate`` returns the codes of a slice; stage: name and turns."""
    pairs = [(0, i) for i in range(len(images))] if pairs is None else list(pairs)
    if not len(texts) == len(pairs) == len(images):
        raise CogViewError(f"{len(texts)} texts and {len(pairs)} seeds for {len(images)} images")
    name, turns = stage
    if batch_size is not None and batch_size < 1:
        raise CogViewError(f"batch_size is {batch_size}; give 1 or more")
    stage_pairs = [stage_stream(seed, index, name) for seed, index in pairs]
    large, done = list[Tensor](), 0

    def run(batch: Sequence[int], size: int) -> Tensor:
        part = slice(batch[0], batch[-1] + 1)
        count = _counter(progress, done, done + turns * -(-(len(images) - batch[0]) // size))
        steps = (turns + 1) * model.format.codes  # one more turn, for orders that keep codes at random
        streams = Streams(stage_pairs[part], steps, model.device)
        return generate(part, streams, partial(next, count))

    size = batch_size or BATCH.get(model.device.type, BATCH["cpu"])
    advice = "close other programs, or keep the images small (--first-stage-only)"
    for _, codes in halving(range(len(images)), size, run, model.device, advice):
        large.append(codes)
        done += turns
    result: Ids = (
        torch.cat(large).cpu().numpy() if large else np.empty((0, model.format.codes), dtype=np.int64)
    )
    return result


def _counter(progress: ProgressCallback | None, done: int, total: int) -> Iterator[None]:
    """Reports one more finished forward to ``progress`` at each ``next``, after ``done`` of ``total``."""
    for now in range(done + 1, total + 1):
        if progress is not None:
            progress(now, total)
        yield
