"""Direct and iterative super-resolution against plain enlargement (CogView2, section 3.3).

Held-out images are shrunk to the first stage's size and brought back from their codes, which is all that an
image the family drew has: by both models (``model``), by the direct one alone (``direct``), and by
enlargement of the small image that the codes stand for (``bicubic``, ``lanczos``; with *of the image*: of
the shrunk image itself, which no code can beat everywhere). Of several orders of the iterative step each is
a way (``model, paper``), and ``direct`` is that of none. ``ceiling`` is the true large image after its
tokenizer. Distances are to the true large image; every comparison is also made image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cogview.data.images import RESAMPLE
from cogview.errors import CogViewError
from cogview.evaluation.experiments.windowed_upscaling import (
    Pixels,
    UpscalingReport,
    held_out,
    score_images,
    upscaling_facts,
)
from cogview.evaluation.metrics.reconstruction import Progress, to_pixels, to_tensor
from cogview.evaluation.plans import UpscalingPlan
from cogview.generation.hierarchical import direct_super_resolution, iterative_super_resolution
from cogview.pipelines.model import Pipeline
from cogview.pipelines.super_resolution import ORDER, TwoStageSuperResolution
from cogview.tokenizers.perceptual import LPIPS

MODEL, DIRECT, BICUBIC, LANCZOS = "model", "direct", "bicubic", "lanczos"
OF_PICTURE = "bicubic of the picture"
TOGETHER = 4

Codes = NDArray[np.int64]


def evaluate_two_stage_upscaling(
    model: Pipeline,
    data: Path,
    judge: LPIPS,
    plan: UpscalingPlan | None = None,
    orders: Sequence[str] = (ORDER,),
    progress: Progress | None = None,
) -> tuple[UpscalingReport, dict[str, Pixels], list[str]]:
    """Measure a family's super-resolution; the report, all images by way (``true`` first), their sources.

    Raises CogViewError where the family does not enlarge, or there is no usable image.
    """
    plan = plan or UpscalingPlan()
    part = stages_of(model)
    tokenizer = model.image_tokenizer
    size = part.format.small[0] * tokenizer.image_size // tokenizer.grid()[0]
    side = size * part.scale
    pictures, captions = held_out(data, plan, side)
    small = _resized(pictures.pixels, size, RESAMPLE[plan.resample])
    codes = _codes(model, small)
    texts = captions if plan.captions else [""] * len(captions)
    ways = upscale_codes(model, codes, texts, plan, orders, progress)
    drawn = [way for way in ways if way != DIRECT]
    plain = _painted(model, codes, part.format.small)
    ways[BICUBIC] = _resized(plain, side, Image.Resampling.BICUBIC)
    ways[LANCZOS] = _resized(plain, side, Image.Resampling.LANCZOS)
    ways[OF_PICTURE] = _resized(small, side, Image.Resampling.BICUBIC)
    ways["ceiling"] = _painted(model, _codes(model, pictures.pixels), part.format.grid)
    pairs = [(way, plainly) for way in (*drawn, DIRECT) for plainly in (BICUBIC, LANCZOS)]
    pairs += [(way, DIRECT) for way in drawn]
    facts = {**upscaling_facts(model, data, plan), "order": ", ".join(orders)}
    return score_images(pictures, ways, pairs, judge, facts, progress)


def stages_of(model: Pipeline) -> TwoStageSuperResolution:
    """The family's models that enlarge what it draws; CogViewError where it has none."""
    if not model.bundle.config.stages:
        raise CogViewError(f"the model {model.bundle.config.name} does not enlarge in two stages")
    return model.two_stages


def upscale_codes(
    model: Pipeline,
    codes: Codes,
    captions: Sequence[str],
    plan: UpscalingPlan,
    orders: Sequence[str] = (ORDER,),
    progress: Progress | None = None,
) -> dict[str, Pixels]:
    """Small codes (n, rows * columns) as large images: by both models in each order, by the direct one."""
    part = stages_of(model)
    limit = part.format.text_limit
    texts = [model.text_tokenizer.encode(caption)[:limit] for caption in captions]
    pairs = [(plan.seed, number) for number in range(len(codes))]
    size, likelihoods = min(plan.batch, TOGETHER), part.prior(list(codes))
    first = direct_super_resolution(
        part.direct,
        texts,
        codes,
        pairs=pairs,
        settings=part.direct_params(),
        likelihoods=likelihoods,
        batch_size=size,
        progress=_told(progress, "direct"),
    )
    ways, iterative = dict[str, Pixels](), part.iterative
    for order in orders if iterative is not None else ():
        assert iterative is not None
        second = iterative_super_resolution(
            iterative,
            texts,
            first,
            pairs=pairs,
            order=order,
            settings=part.iterative_params(order),
            likelihoods=likelihoods,
            batch_size=size,
            progress=_told(progress, f"iterative, {order}"),
        )
        name = MODEL if len(orders) == 1 else f"{MODEL}, {order}"
        ways[name] = _painted(model, second, part.format.grid)
    return ways | {DIRECT: _painted(model, first, part.format.grid)}


def _told(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, of: progress(what, done, of)


@torch.inference_mode()
def _codes(model: Pipeline, pixels: Pixels) -> Codes:
    """Codes (n, rows * columns) of images (n, size, size, 3)."""
    found = [
        model.image_tokenizer.encode(to_tensor(one[None]).to(model.components.device)).cpu() for one in pixels
    ]
    codes: Codes = torch.cat(found).numpy()
    return codes


@torch.inference_mode()
def _painted(model: Pipeline, codes: Codes, grid: tuple[int, int]) -> Pixels:
    """The images that codes (n, rows * columns) stand for."""
    rows = torch.from_numpy(codes).to(model.components.device)
    return np.concatenate([to_pixels(model.image_tokenizer.decode(one[None], grid).cpu()) for one in rows])


def _resized(pictures: Pixels, side: int, filter: Image.Resampling) -> Pixels:
    return np.stack([np.asarray(Image.fromarray(one).resize((side, side), filter)) for one in pictures])
