"""The two upper steps of CogView2's hierarchy (section 3.3): from small codes to large, and the large again.

``direct_super_resolution`` draws all codes of the large image at once, each by itself;
``iterative_super_resolution`` draws most of them again in a few forwards (:mod:`local_parallel`), so that
neighbours agree. One random stream an image: it is the same alone and in any batch.
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
Form = TypeVar("Form", DirectFormat, IterativeFormat)

BATCH = {"cpu": 4, "cuda": 16}


@dataclass(frozen=True)
class Upscaler(Generic[Form]):
    """A super-resolution model, what it reads, the clusters of its codes (v,) int64, if it has any, and how
    its layers are computed."""

    transformer: Transformer
    form: Form
    clusters: Tensor | None = None
    precision: Precision = "fp32"

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.transformer.tokens.weight.device

    def states(self, made: Inputs) -> Tensor:
        """Last states (b, codes, h) of the large images; one forward."""
        made = made.to(self.device)
        with computing(self.precision, self.device):
            hidden: Tensor = self.transformer(made.ids, made.positions, made.visibility)
        return hidden[:, -self.form.codes :]

    def head(self, states: Tensor) -> Tensor:
        """Logits (m, image codes) of states (m, h)."""
        table = self.transformer.tokens.weight
        return self.transformer.logits(states.to(table.dtype), slice(0, self.form.vocabulary.image_codes))


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
    """Large images from small ones, in one forward.

    Args:
        model: its transformer in evaluation mode.
        text_ids: for each image the tokens of its text (0-based); they may be empty.
        codes: (b, small rows * columns) or (b, rows, columns).
        pairs: (seed, index) of each image; by default seed 0 and their numbers.
        settings: by default the release's cluster sampling, or temperature 1 where there are no clusters.
        likelihoods: the pixel prior of each image.
        batch_size: the most images at a time; it does not change them.
        progress: called with the number of forwards done, and their total.

    Returns:
        (b, rows * columns) int64.

    Raises:
        CogViewError: a text or an image that the model does not take.
    """
    settings = settings or (DIRECT if model.clusters is not None else SamplingParams())
    made = model.form.image_ids(codes, model.form.small[0] * model.form.small[1])

    def draw(chosen: slice, streams: Streams, report: Callable[[], None]) -> Tensor:
        states = model.states(model.form.inputs(text_ids[chosen], made[chosen]))
        report()
        known = _known(likelihoods, chosen)
        return torch.stack([_draw(model, row, settings, streams, i, known) for i, row in enumerate(states)])

    return _in_batches(model, text_ids, made, pairs, batch_size, progress, ("direct", 1), draw)


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
    """Large images, most of their codes drawn again in as many forwards as ``order`` has turns.

    Args:
        model, text_ids, pairs, likelihoods, batch_size, progress: as for :func:`direct_super_resolution`; of
            a text the first tokens are read.
        codes: (b, rows * columns) or (b, rows, columns).
        order: a name of ``ORDERS``, or an order.
        settings: of all turns, or one for each; by default temperature 1 and the release's top-k.
        region: bool, of the codes' shape: outside of it nothing changes.

    Returns:
        (b, rows * columns) int64.

    Raises:
        CogViewError: an image that the model does not take, or another number of settings than turns.
    """
    order = find_order(order) if isinstance(order, str) else order
    form, made = model.form, model.form.image_ids(codes, model.form.codes)
    settings = settings or [SamplingParams(top_k=top_k_of(t + 1, order.turns)) for t in range(order.turns)]
    open_ = None if region is None else torch.as_tensor(region).bool().reshape(len(made), -1)
    if open_ is not None and open_.shape != made.shape:
        raise CogViewError(f"a region of {open_.shape[1]} codes does not fit the picture's {form.codes}")

    def draw(chosen: slice, streams: Streams, report: Callable[[], None]) -> Tensor:
        start = made[chosen].to(model.device)
        inside = None if open_ is None else open_[chosen].to(model.device)
        known = _known(likelihoods, chosen)
        state = LocalParallel(order, form.grid, start, streams, settings, inside, model.clusters, known)
        while not state.done:
            made_now = form.inputs(text_ids[chosen], state.codes.cpu(), state.hidden.cpu())
            state.step(model.states(made_now), model.head)
            report()
        return state.codes

    return _in_batches(model, text_ids, made, pairs, batch_size, progress, ("iterative", order.turns), draw)


Draw = Callable[[slice, Streams, Callable[[], None]], Tensor]


def _known(likelihoods: Sequence[PixelLikelihood] | None, chosen: slice) -> Likelihoods | None:
    """The likelihoods of a batch, or None."""
    if likelihoods is None:
        return None
    own = likelihoods[chosen]
    return lambda image, places: own[image].at(places)


def _draw(
    model: Upscaler[DirectFormat],
    states: Tensor,
    settings: SamplingParams,
    streams: Streams,
    image: int,
    likelihoods: Likelihoods | None = None,
) -> Tensor:
    """The codes (n,) of one image, each by itself, from its states (n, h)."""
    drawn = []
    for places in torch.split(torch.arange(len(states), device=states.device), ROWS):
        logits = model.head(states[places]).float()
        if likelihoods is not None:
            logits = logits + likelihoods(image, places)
        noise = streams.gumbel_of(image, places, logits.shape[1])
        drawn.append(sampling.sample(logits, noise, settings, model.clusters))
    return torch.cat(drawn)


@torch.inference_mode()
def _in_batches(
    model: Upscaler[Form],
    texts: Sequence[ArrayLike],
    pictures: Tensor,
    pairs: Pairs | None,
    batch_size: int | None,
    progress: ProgressCallback | None,
    stage: tuple[str, int],
    draw: Draw,
) -> Ids:
    """All images, ``size`` at a time, the last ones too; ``draw`` makes those of a slice."""
    given = [(0, i) for i in range(len(pictures))] if pairs is None else list(pairs)
    if not len(texts) == len(given) == len(pictures):
        raise CogViewError(f"{len(texts)} texts and {len(given)} seeds for {len(pictures)} pictures")
    name, turns = stage
    if batch_size is not None and batch_size < 1:
        raise CogViewError(f"batch_size is {batch_size}; give 1 or more")
    own = [stage_stream(seed, index, name) for seed, index in given]
    large, done = list[Tensor](), 0

    def run(batch: Sequence[int], size: int) -> Tensor:
        part = slice(batch[0], batch[-1] + 1)
        count = _counter(progress, done, done + turns * -(-(len(pictures) - batch[0]) // size))
        steps = (turns + 1) * model.form.codes  # the last turn's: what an order keeps at random
        streams = Streams(own[part], steps, model.device)
        return draw(part, streams, partial(next, count))

    size = batch_size or BATCH.get(model.device.type, BATCH["cpu"])
    advice = "close other programs, or leave pictures small (--first-stage-only)"
    for _, codes in halving(range(len(pictures)), size, run, model.device, advice):
        large.append(codes)
        done += turns
    found: Ids = torch.cat(large).cpu().numpy() if large else np.empty((0, model.form.codes), dtype=np.int64)
    return found


def _counter(progress: ProgressCallback | None, done: int, total: int) -> Iterator[None]:
    """Tells ``progress`` at each ``next`` that one more forward is done, after ``done`` of ``total``."""
    for now in range(done + 1, total + 1):
        if progress is not None:
            progress(now, total)
        yield
