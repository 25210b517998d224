"""Super-resolution of codes: the codes of a large image are generated window by window, conditioned on those
of the small one (CogView, section 3.1).

``windows.py`` defines the windows and their order. Windows of all images that do not depend on each other are
generated in one batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cogview.generation.engine import BATCH, Engine
from cogview.generation.loop import SequenceRequest
from cogview.generation.pixel_prior import PixelLikelihood
from cogview.generation.windows import Window, plan, scale_of, stream_of, turns, under, view
from cogview.sequences.cogview import SequenceFormat
from cogview.types import Ids, ProgressCallback, SamplingParams


@dataclass(frozen=True, eq=False)
class SmallImage:
    """A small image to upscale.

    text: (n,) tokens; codes: (rows, columns) int64; seed, index: its random stream; pixels: the likelihoods
    of the large image's codes, if there are any; negative: tokens that guidance moves away from.
    """

    text: Sequence[int]
    codes: Ids
    seed: int
    index: int
    pixels: PixelLikelihood | None = None
    negative: Sequence[int] = ()


def upscale_codes(
    engine: Engine,
    format: SequenceFormat,
    images: Sequence[SmallImage],
    settings: SamplingParams,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
    stage: int = 0,
) -> Iterator[tuple[int, Ids]]:
    """Upscale; yields (number, codes (rows * scale, columns * scale) int64) of every image, in order.

    Args:
        engine: of a super-resolution model.
        format: the model's sequence format.
        batch_size: the largest number of windows at a time; it does not change results.
        progress: called with the number of tokens read or sampled, and their total.
        stage: number of this pass in a chain of upscaling passes; each has its own random streams.

    Raises:
        CogViewError: an image is smaller than the model's context, or codes or text do not fit the format.
    """
    scale = scale_of(format)
    plans = [plan(format, image.codes, scale) for image in images]
    group = batch_size or BATCH.get(engine.decoder.device.type, BATCH["cpu"])
    total = sum(window.rows for plan in plans for window in plan) * format.grid[1]
    done = 0
    for first in range(0, len(images), group):
        numbers = range(first, min(first + group, len(images)))
        canvases = {n: np.full([side * scale for side in images[n].codes.shape], -1) for n in numbers}
        for ready in turns({n: plans[n] for n in numbers}):
            views = [view(canvases[n], window, format.grid[1]) for n, window in ready]
            requests = [
                _request(format, images[n], window, known, settings, stage)
                for (n, window), known in zip(ready, views, strict=True)
            ]
            report = None if progress is None else _after(progress, done, total)
            for number, tokens in engine.generate(requests, settings, batch_size, report):
                views[number][...] = tokens.reshape(views[number].shape)
            done += sum(codes.size for codes in views)
        yield from canvases.items()


def _request(
    format: SequenceFormat,
    image: SmallImage,
    window: Window,
    known: Ids,
    settings: SamplingParams,
    stage: int,
) -> SequenceRequest:
    """The engine's request for one window; ``known`` (rows, columns) is -1 for codes to generate."""
    small = under(format, image.codes, window)
    prompt = format.image_prompt(image.text, small.ravel(), known.size)
    guided = settings.guidance_scale != 1
    negative = format.image_prompt(image.negative, small.ravel(), known.size) if guided else None
    stream = stream_of(image.index, stage, window.number)
    place = (window.top, window.left, *known.shape)
    likelihood = None if image.pixels is None else image.pixels.part(*place)
    return SequenceRequest(prompt, image.seed, stream, negative, known.flatten(), likelihood)


def _after(progress: ProgressCallback, done: int, total: int) -> ProgressCallback:
    return lambda now, _: progress(done + now, total)
