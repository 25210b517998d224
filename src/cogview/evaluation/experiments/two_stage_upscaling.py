"""Direct and iterative super-resolution against interpolation (CogView2, section 3.3).

Held-out images are downscaled to the first stage's size and upscaled again from their codes only, as images
that the family generates: with both models (``model``), with the direct one alone (``direct``), and by
interpolation of the decoded small image (``bicubic``, ``lanczos``) or of the downscaled image itself
(``bicubic of the picture``). With several orders of the iterative step each is a method (``model, paper``).
``ceiling`` is the tokenizer's reconstruction of the true large image. Distances are to the true large image;
methods are also compared image by image.
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
from cogview.tokenizers.loading import side_of
from cogview.tokenizers.perceptual import LPIPS

MODEL, DIRECT, BICUBIC, LANCZOS = "model", "direct", "bicubic", "lanczos"
OF_IMAGE = "bicubic of the picture"  # a name in reports
MAX_BATCH = 4

Codes = NDArray[np.int64]


def evaluate_two_stage_upscaling(
    model: Pipeline,
    data: Path,
    judge: LPIPS,
    plan: UpscalingPlan | None = None,
    orders: Sequence[str] = (ORDER,),
    progress: Progress | None = None,
) -> tuple[UpscalingReport, dict[str, Pixels], list[str]]:
    """Measure a family's super-resolution; the report, all images by method (``true`` first), their sources.

    Raises CogViewError if the family has no two-stage super-resolution, or there is no usable image.
    """
    plan = plan or UpscalingPlan()
    part = stages_of(model)
    tokenizer = model.image_tokenizer
    size = side_of(tokenizer, part.format.small[0])
    side = size * part.scale
    images, captions = held_out(data, plan, side)
    small = _resized(images.pixels, size, RESAMPLE[plan.resample])
    codes = _codes(model, small)
    texts = captions if plan.captions else [""] * len(captions)
    methods = upscale_codes(model, codes, texts, plan, orders, progress)
    iterative = [method for method in methods if method != DIRECT]
    decoded = _decoded(model, codes, part.format.small)
    methods[BICUBIC] = _resized(decoded, side, Image.Resampling.BICUBIC)
    methods[LANCZOS] = _resized(decoded, side, Image.Resampling.LANCZOS)
    methods[OF_IMAGE] = _resized(small, side, Image.Resampling.BICUBIC)
    methods["ceiling"] = _decoded(model, _codes(model, images.pixels), part.format.grid)
    pairs = [(method, baseline) for method in (*iterative, DIRECT) for baseline in (BICUBIC, LANCZOS)]
    pairs += [(method, DIRECT) for method in iterative]
    facts = {**upscaling_facts(model, data, plan), "order": ", ".join(orders)}
    return score_images(images, methods, pairs, judge, facts, progress)


def stages_of(model: Pipeline) -> TwoStageSuperResolution:
    """The family's super-resolution models for its own images; CogViewError if it has none."""
    if not model.bundle.config.stages:
        raise CogViewError(f"the model {model.bundle.config.name} does not upscale in two stages")
    return model.two_stages


def upscale_codes(
    model: Pipeline,
    codes: Codes,
    captions: Sequence[str],
    plan: UpscalingPlan,
    orders: Sequence[str] = (ORDER,),
    progress: Progress | None = None,
) -> dict[str, Pixels]:
    """Large images from small codes (n, rows * columns): by both models in each order, by the direct one."""
    part = stages_of(model)
    limit = part.format.text_limit
    texts = [model.text_tokenizer.encode(caption)[:limit] for caption in captions]
    pairs = [(plan.seed, number) for number in range(len(codes))]
    size, likelihoods = min(plan.batch, MAX_BATCH), part.prior(list(codes))
    first = direct_super_resolution(
        part.direct,
        texts,
        codes,
        pairs=pairs,
        settings=part.direct_params(),
        likelihoods=likelihoods,
        batch_size=size,
        progress=_labelled(progress, "direct"),
    )
    methods, iterative = dict[str, Pixels](), part.iterative
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
            progress=_labelled(progress, f"iterative, {order}"),
        )
        name = MODEL if len(orders) == 1 else f"{MODEL}, {order}"
        methods[name] = _decoded(model, second, part.format.grid)
    return methods | {DIRECT: _decoded(model, first, part.format.grid)}


def _labelled(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, of: progress(what, done, of)


@torch.inference_mode()
def _codes(model: Pipeline, pixels: Pixels) -> Codes:
    """Codes (n, rows * columns) of images (n, size, size, 3)."""
    encoded = [
        model.image_tokenizer.encode(to_tensor(image[None]).to(model.components.device)).cpu()
        for image in pixels
    ]
    codes: Codes = torch.cat(encoded).numpy()
    return codes


@torch.inference_mode()
def _decoded(model: Pipeline, codes: Codes, grid: tuple[int, int]) -> Pixels:
    """The images decoded from codes (n, rows * columns)."""
    rows = torch.from_numpy(codes).to(model.components.device)
    return np.concatenate([to_pixels(model.image_tokenizer.decode(row[None], grid).cpu()) for row in rows])


def _resized(images: Pixels, side: int, filter: Image.Resampling) -> Pixels:
    return np.stack([np.asarray(Image.fromarray(image).resize((side, side), filter)) for image in images])
