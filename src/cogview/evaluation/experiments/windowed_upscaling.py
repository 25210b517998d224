"""Super-resolution against interpolation: LPIPS, SSIM and PSNR to the true large image.

Held-out images are downscaled by two and upscaled again in two settings:

- the *image* is known, as when a user's file is upscaled: the model, corrected so that its result downscales
  to that image (``model``), against bicubic and Lanczos interpolation of it;
- only its *codes* are known, as for an image that the family generated: the model (``model, from codes``)
  against bicubic interpolation of the decoded small image.

``ceiling`` is the tokenizer's reconstruction of the true large image, corrected or not: what a perfect model
would give. Methods are also compared image by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from cogview.checkpoints.bundle import UPSCALING
from cogview.config import Config
from cogview.data.images import RESAMPLE, BadImage, decode, square
from cogview.data.shards import Preprocessing
from cogview.data.sources import Record, open_source
from cogview.errors import CogViewError
from cogview.evaluation.metrics.reconstruction import (
    Errors,
    Fidelity,
    ImageArrays,
    Progress,
    fidelity,
    measure,
    to_pixels,
    to_tensor,
)
from cogview.evaluation.plans import UpscalingPlan
from cogview.generation.image_upscaling import Original, Request, Upscaler, corrected
from cogview.pipelines.base import encode_caption
from cogview.pipelines.model import Pipeline
from cogview.pipelines.super_resolution import WindowedSuperResolution
from cogview.tokenizers.perceptual import LPIPS
from cogview.types import SamplingParams

MODEL, CODES = "model", "model, from codes"
PAIRS = ((MODEL, "bicubic"), (MODEL, "lanczos"), (CODES, "bicubic, from codes"))

Pixels = NDArray[np.uint8]
Fact = str | int | float | bool | None


class Comparison(Config):
    """LPIPS of two methods on the same images.

    difference: mean of first minus second, below 0 if the first is nearer to the true image; low, high: its
    95 % interval (normal approximation); wins: share of images on which the first is nearer.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    wins: float


class UpscalingReport(Config):
    """The results of ``cogview eval upscaling`` and the facts behind them."""

    format: Literal[1] = 1
    overall: dict[str, Fidelity]
    by_source: dict[str, dict[str, Fidelity]]
    comparisons: tuple[Comparison, ...]
    skipped: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, Fact]


def held_out(data: Path, plan: UpscalingPlan, size: int) -> tuple[ImageArrays, list[str]]:
    """Images of ``size`` pixels, evenly spaced in the split, and the first caption of each ("" for none).

    Raises CogViewError if there is no usable image.
    """
    records = [r for r in open_source(data).records() if plan.split in (None, r.split)]
    if plan.limit is not None and plan.limit < len(records):
        records = [records[i * len(records) // plan.limit] for i in range(plan.limit)]
    loaded: list[tuple[Pixels, Record]] = []
    skipped: dict[str, int] = {}
    for record in records:
        try:
            pixels = square(
                decode(record.image or b"").image, Preprocessing(size=size, resample=plan.resample)
            )
            loaded.append((pixels, record))
        except BadImage as error:
            skipped[error.reason] = skipped.get(error.reason, 0) + 1
    if not loaded:
        raise CogViewError(f"{data}: no readable image of split {plan.split!r}; choose another with --split")
    images = ImageArrays(np.stack([p for p, _ in loaded]), [record.source for _, record in loaded], skipped)
    return images, [record.captions[0].text if record.captions else "" for _, record in loaded]


def evaluate_upscaling(
    model: Pipeline,
    data: Path,
    judge: LPIPS,
    plan: UpscalingPlan | None = None,
    sampling: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> tuple[UpscalingReport, dict[str, Pixels], list[str]]:
    """Measure a family's super-resolution; the report, all images by method (``true`` first), their sources.

    The family's image size is doubled. ``sampling`` changes settings as in :meth:`CogView.upscale`.
    """
    plan = plan or UpscalingPlan()
    upscaler_of(model).stages(2)
    side = 2 * model.image_tokenizer.image_size
    images, captions = held_out(data, plan, side)
    small = _halved(images.pixels, plan)
    methods = upscale_images(
        model, small, captions if plan.captions else [""] * len(captions), plan, sampling, progress
    )
    methods |= _ceiling(model, images.pixels, small, plan.detail)
    settings = model.bundle.config.sampling("upscale", SamplingParams.given(**(sampling or {})))
    facts = {**upscaling_facts(model, data, plan), "detail": plan.detail, **settings.model_dump()}
    return score_images(images, methods, PAIRS, judge, facts, progress)


def upscaler_of(model: Pipeline) -> Upscaler:
    """The family's super-resolution model for images of any size; CogViewError if it has none."""
    part = model.super_resolution
    if UPSCALING not in model.bundle.config.roles:
        raise CogViewError(f"the model {model.bundle.config.name} only upscales images that it generates")
    return cast(WindowedSuperResolution, part).upscaler


def upscaling_facts(model: Pipeline, data: Path, plan: UpscalingPlan) -> dict[str, Fact]:
    """The facts of a report about the model, the data and the plan."""
    return {
        "model": model.bundle.config.name,
        "model_hash": model.model_hash,
        "data": data.name,
        "split": plan.split,
        "captions": plan.captions,
        "seed": plan.seed,
        "resample": plan.resample,
    }


def score_images(
    images: ImageArrays,
    methods: dict[str, Pixels],
    pairs: Iterable[tuple[str, str]],
    judge: LPIPS,
    facts: Mapping[str, Fact],
    progress: Progress | None = None,
) -> tuple[UpscalingReport, dict[str, Pixels], list[str]]:
    """Measure the large images of each method against the true ones, and compare ``pairs`` image by image.

    Returns the report, all images by method (``true`` first), their sources.
    """
    errors = {
        name: measure(images.pixels, copies, judge, progress=named(progress, name))
        for name, copies in methods.items()
    }
    report = UpscalingReport(
        overall={name: fidelity(of_method) for name, of_method in errors.items()},
        by_source=by_source(errors, images.sources),
        comparisons=tuple(compare(errors, *pair) for pair in pairs),
        skipped=images.skipped,
        facts={"network": judge.network, "size": images.pixels.shape[1], **facts},
    )
    return report, {"true": images.pixels, **methods}, images.sources


def upscale_images(
    model: Pipeline,
    small: Pixels,
    captions: Sequence[str],
    plan: UpscalingPlan,
    sampling: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, Pixels]:
    """Small images (n, size, size, 3), upscaled by two with every method but the ceilings."""
    upscaler = upscaler_of(model)
    originals = [upscaler.read(Image.fromarray(pixels), 2) for pixels in small]
    requests = [
        Request(
            original, encode_caption(model.components, caption, upscaler.format.text_limit), plan.seed, number
        )
        for number, (original, caption) in enumerate(zip(originals, captions, strict=True))
    ]
    settings = model.bundle.config.sampling("upscale", SamplingParams.given(**(sampling or {})))

    def by_model(name: str, requests: Sequence[Request]) -> Pixels:
        report = None if progress is None else lambda done, of: progress(f"upscaling: {name}", done, of)
        outputs = upscaler.run(requests, 2, settings, True, plan.detail, plan.batch, report)
        return np.stack([np.asarray(image) for _, _, image in outputs])

    from_codes = [replace(request, original=Original(request.original.codes)) for request in requests]
    decoded = np.stack([_decoded(model, original) for original in originals])
    return {
        MODEL: by_model(MODEL, requests),
        "bicubic": _interpolated(small, Image.Resampling.BICUBIC),
        "lanczos": _interpolated(small, Image.Resampling.LANCZOS),
        CODES: by_model(CODES, from_codes),
        "bicubic, from codes": _interpolated(decoded, Image.Resampling.BICUBIC),
    }


@torch.inference_mode()
def _decoded(model: Pipeline, original: Original) -> Pixels:
    """The small image decoded from an original's codes."""
    device = next(model.image_tokenizer.parameters()).device
    rows, columns = original.codes.shape
    codes = torch.from_numpy(original.codes.reshape(1, -1)).to(device)
    pixels: Pixels = to_pixels(model.image_tokenizer.decode(codes, (rows, columns)).cpu())[0]
    return pixels


@torch.inference_mode()
def _ceiling(model: Pipeline, large: Pixels, small: Pixels, detail: float) -> dict[str, Pixels]:
    """Reconstructions of the true images, with and without the correction to the small ones."""
    device = next(model.image_tokenizer.parameters()).device
    grid = model.image_tokenizer.grid(large.shape[1])
    with_correction, without = [], []
    for true, halved in zip(large, small, strict=True):
        codes = model.image_tokenizer.encode(to_tensor(true[None]).to(device))
        copy = model.image_tokenizer.decode(codes, grid).cpu()
        without.append(to_pixels(copy)[0])
        with_correction.append(to_pixels(corrected(copy[0], to_tensor(halved[None])[0], detail)[None])[0])
    return {"ceiling": np.stack(with_correction), "ceiling, from codes": np.stack(without)}


def _halved(large: Pixels, plan: UpscalingPlan) -> Pixels:
    half = (large.shape[2] // 2, large.shape[1] // 2)
    return np.stack([np.asarray(Image.fromarray(p).resize(half, RESAMPLE[plan.resample])) for p in large])


def _interpolated(small: Pixels, filter: Image.Resampling) -> Pixels:
    size = (2 * small.shape[2], 2 * small.shape[1])
    return np.stack([np.asarray(Image.fromarray(pixels).resize(size, filter)) for pixels in small])


def compare(errors: dict[str, Errors], first: str, second: str) -> Comparison:
    """Compare two methods image by image."""
    a, b = errors[first].lpips, errors[second].lpips
    assert a is not None and b is not None
    differences = a - b
    n, mean = len(differences), float(differences.mean())
    half = 1.96 * float(differences.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    return Comparison(
        first=first,
        second=second,
        difference=mean,
        low=mean - half,
        high=mean + half,
        wins=float((differences < 0).mean()),
    )


def by_source(errors: dict[str, Errors], sources: Sequence[str]) -> dict[str, dict[str, Fidelity]]:
    """The fidelity by the source of the images and the method."""
    rows = {name: [i for i, source in enumerate(sources) if source == name] for name in sorted(set(sources))}
    return {
        name: {method: fidelity(of_method, of_source) for method, of_method in errors.items()}
        for name, of_source in rows.items()
    }


def named(progress: Progress | None, name: str) -> Progress | None:
    """``progress`` with the label "measuring ``name``"."""
    return None if progress is None else lambda _, done, of: progress(f"measuring {name}", done, of)
