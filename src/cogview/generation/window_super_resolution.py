"""Super-resolution of codes: a large image drawn window by window over a small one (CogView, section 3.1).

Which windows there are and in which order they are drawn is said in ``windows.py``. All windows that are
ready, of all images, are drawn together.
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
class Small:
    """An image to enlarge.

    text: (n,) tokens; codes: (rows, columns) int64; seed, index: as for images generated from text; pixels:
    what they say of the large image's codes, where they are known; negative: tokens that guidance moves away
    from.
    """

    text: Sequence[int]
    codes: Ids
    seed: int
    index: int
    pixels: PixelLikelihood | None = None
    negative: Sequence[int] = ()


def enlarge(
    engine: Engine,
    form: SequenceFormat,
    pictures: Sequence[Small],
    settings: SamplingParams,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
    stage: int = 0,
) -> Iterator[tuple[int, Ids]]:
    """Codes (rows * scale, columns * scale) int64 of every image, as (its number, codes), in order.

    Args:
        engine: of a super-resolution model.
        form: that model's sequences.
        batch_size: the most windows at a time; it does not change the images.
        progress: called with the number of tokens read or sampled, and their total.
        stage: which enlargement in a row this is; each has random streams of its own.

    Raises:
        CogViewError: an image smaller than the model's small image, or codes or text that do not fit.
    """
    scale = scale_of(form)
    plans = [plan(form, picture.codes, scale) for picture in pictures]
    group = batch_size or BATCH.get(engine.decoder.device.type, BATCH["cpu"])
    total = sum(window.rows for plan in plans for window in plan) * form.grid[1]
    done = 0
    for first in range(0, len(pictures), group):
        numbers = range(first, min(first + group, len(pictures)))
        canvases = {n: np.full([side * scale for side in pictures[n].codes.shape], -1) for n in numbers}
        for ready in turns({n: plans[n] for n in numbers}):
            views = [view(canvases[n], window, form.grid[1]) for n, window in ready]
            jobs = [
                _job(form, pictures[n], window, own, settings, stage)
                for (n, window), own in zip(ready, views, strict=True)
            ]
            report = None if progress is None else _after(progress, done, total)
            for number, tokens in engine.generate(jobs, settings, batch_size, report):
                views[number][...] = tokens.reshape(views[number].shape)
            done += sum(own.size for own in views)
        yield from canvases.items()


def _job(
    form: SequenceFormat, picture: Small, window: Window, known: Ids, settings: SamplingParams, stage: int
) -> SequenceRequest:
    """The engine's request for one window; ``known`` (rows, columns) is -1 where nothing is drawn yet."""
    small = under(form, picture.codes, window)
    prompt = form.image_prompt(picture.text, small.ravel(), known.size)
    guided = settings.guidance_scale != 1
    negative = form.image_prompt(picture.negative, small.ravel(), known.size) if guided else None
    stream = stream_of(picture.index, stage, window.number)
    place = (window.top, window.left, *known.shape)
    likelihood = None if picture.pixels is None else picture.pixels.part(*place)
    return SequenceRequest(prompt, picture.seed, stream, negative, known.flatten(), likelihood)


def _after(progress: ProgressCallback, done: int, total: int) -> ProgressCallback:
    return lambda now, _: progress(done + now, total)
