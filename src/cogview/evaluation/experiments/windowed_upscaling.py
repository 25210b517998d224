"""Super-resolution against plain enlargement: LPIPS, SSIM and PSNR to the true large image.

Held-out images are halved, and brought back in two settings:

- the *image* is known, as when a user's file is enlarged: the model, corrected to shrink to that image
  (``model``), against bicubic and Lanczos enlargement of it;
- only its *codes* are known, as for an image the family drew: the model (``model, from codes``) against
  bicubic enlargement of the small image the codes stand for.

``ceiling`` is the true large image after its tokenizer, corrected or not: what a perfect model would give.
Every comparison is also made image by image.
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
from cogview.generation.upscaling import Original, Request, Upscaler, corrected
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
    """LPIPS of two ways on the same images.

    difference: mean of first minus second, below 0 where the first is nearer to the truth; low, high: its
    95 % interval (normal); wins: share of the images on which the first is nearer.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    wins: float


class UpscalingReport(Config):
    """Everything ``cogview eval upscaling`` measures and what it was measured with."""

    format: Literal[1] = 1
    overall: dict[str, Fidelity]
    by_source: dict[str, dict[str, Fidelity]]
    comparisons: tuple[Comparison, ...]
    skipped: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, Fact]


def held_out(data: Path, plan: UpscalingPlan, size: int) -> tuple[ImageArrays, list[str]]:
    """Pictures of ``size`` pixels, evenly spaced in the split, and the first caption of each ("" for none).

    Raises CogViewError where there is no usable image.
    """
    records = [r for r in open_source(data).records() if plan.split in (None, r.split)]
    if plan.limit is not None and plan.limit < len(records):
        records = [records[i * len(records) // plan.limit] for i in range(plan.limit)]
    found: list[tuple[Pixels, Record]] = []
    skipped: dict[str, int] = {}
    for record in records:
        try:
            pixels = square(
                decode(record.image or b"").image, Preprocessing(size=size, resample=plan.resample)
            )
            found.append((pixels, record))
        except BadImage as error:
            skipped[error.reason] = skipped.get(error.reason, 0) + 1
    if not found:
        raise CogViewError(f"{data}: no readable image of split {plan.split!r}; choose another with --split")
    pictures = ImageArrays(np.stack([p for p, _ in found]), [record.source for _, record in found], skipped)
    return pictures, [record.captions[0].text if record.captions else "" for _, record in found]


def evaluate_upscaling(
    model: Pipeline,
    data: Path,
    judge: LPIPS,
    plan: UpscalingPlan | None = None,
    sampling: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> tuple[UpscalingReport, dict[str, Pixels], list[str]]:
    """Measure a family's super-resolution; the report, all images by way (``true`` first), their sources.

    The family's own size is doubled. ``sampling`` changes settings as in :meth:`CogView.upscale`.
    """
    plan = plan or UpscalingPlan()
    upscaler_of(model).stages(2)
    side = 2 * model.image_tokenizer.image_size
    pictures, captions = held_out(data, plan, side)
    small = _halved(pictures.pixels, plan)
    ways = upscale_images(
        model, small, captions if plan.captions else [""] * len(captions), plan, sampling, progress
    )
    ways |= _ceiling(model, pictures.pixels, small, plan.detail)
    settings = model.bundle.config.sampling("upscale", SamplingParams.given(**(sampling or {})))
    facts = {**upscaling_facts(model, data, plan), "detail": plan.detail, **settings.model_dump()}
    return score_images(pictures, ways, PAIRS, judge, facts, progress)


def upscaler_of(model: Pipeline) -> Upscaler:
    """The family's super-resolution model for images of any size; CogViewError where it has none."""
    part = model.super_resolution
    if UPSCALING not in model.bundle.config.roles:
        raise CogViewError(f"the model {model.bundle.config.name} upscales what it generates alone")
    return cast(WindowedSuperResolution, part).upscaler


def upscaling_facts(model: Pipeline, data: Path, plan: UpscalingPlan) -> dict[str, Fact]:
    """What a report says of the model, the data and the plan."""
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
    pictures: ImageArrays,
    ways: dict[str, Pixels],
    pairs: Iterable[tuple[str, str]],
    judge: LPIPS,
    facts: Mapping[str, Fact],
    progress: Progress | None = None,
) -> tuple[UpscalingReport, dict[str, Pixels], list[str]]:
    """Measure ways to make large images against the true ones, ``pairs`` of them image by image too.

    The report, all images by way (``true`` first), their sources.
    """
    errors = {
        name: measure(pictures.pixels, copies, judge, progress=named(progress, name))
        for name, copies in ways.items()
    }
    report = UpscalingReport(
        overall={name: fidelity(own) for name, own in errors.items()},
        by_source=by_source(errors, pictures.sources),
        comparisons=tuple(compare(errors, *pair) for pair in pairs),
        skipped=pictures.skipped,
        facts={"network": judge.network, "size": pictures.pixels.shape[1], **facts},
    )
    return report, {"true": pictures.pixels, **ways}, pictures.sources


def upscale_images(
    model: Pipeline,
    small: Pixels,
    captions: Sequence[str],
    plan: UpscalingPlan,
    sampling: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, Pixels]:
    """Small images (n, size, size, 3), twice as large in all ways but the ceilings."""
    upscaler = upscaler_of(model)
    originals = [upscaler.read(Image.fromarray(pixels), 2) for pixels in small]
    requests = [
        Request(
            original, encode_caption(model.components, caption, upscaler.format.text_limit), plan.seed, number
        )
        for number, (original, caption) in enumerate(zip(originals, captions, strict=True))
    ]
    settings = model.bundle.config.sampling("upscale", SamplingParams.given(**(sampling or {})))

    def drawn(name: str, requests: Sequence[Request]) -> Pixels:
        report = None if progress is None else lambda done, of: progress(f"drawing: {name}", done, of)
        made = upscaler.run(requests, 2, settings, True, plan.detail, plan.batch, report)
        return np.stack([np.asarray(image) for _, _, image in made])

    coded = [replace(request, original=Original(request.original.codes)) for request in requests]
    painted = np.stack([_painted(model, original) for original in originals])
    return {
        MODEL: drawn(MODEL, requests),
        "bicubic": _enlarged(small, Image.Resampling.BICUBIC),
        "lanczos": _enlarged(small, Image.Resampling.LANCZOS),
        CODES: drawn(CODES, coded),
        "bicubic, from codes": _enlarged(painted, Image.Resampling.BICUBIC),
    }


@torch.inference_mode()
def _painted(model: Pipeline, original: Original) -> Pixels:
    """The small image that an original's codes stand for."""
    device = next(model.image_tokenizer.parameters()).device
    rows, columns = original.codes.shape
    codes = torch.from_numpy(original.codes.reshape(1, -1)).to(device)
    pixels: Pixels = to_pixels(model.image_tokenizer.decode(codes, (rows, columns)).cpu())[0]
    return pixels


@torch.inference_mode()
def _ceiling(model: Pipeline, large: Pixels, small: Pixels, detail: float) -> dict[str, Pixels]:
    """What the right codes would give."""
    device = next(model.image_tokenizer.parameters()).device
    grid = model.image_tokenizer.grid(large.shape[1])
    faithful, free = [], []
    for true, halved in zip(large, small, strict=True):
        codes = model.image_tokenizer.encode(to_tensor(true[None]).to(device))
        copy = model.image_tokenizer.decode(codes, grid).cpu()
        free.append(to_pixels(copy)[0])
        faithful.append(to_pixels(corrected(copy[0], to_tensor(halved[None])[0], detail)[None])[0])
    return {"ceiling": np.stack(faithful), "ceiling, from codes": np.stack(free)}


def _halved(large: Pixels, plan: UpscalingPlan) -> Pixels:
    half = (large.shape[2] // 2, large.shape[1] // 2)
    return np.stack([np.asarray(Image.fromarray(p).resize(half, RESAMPLE[plan.resample])) for p in large])


def _enlarged(small: Pixels, filter: Image.Resampling) -> Pixels:
    twice = (2 * small.shape[2], 2 * small.shape[1])
    return np.stack([np.asarray(Image.fromarray(pixels).resize(twice, filter)) for pixels in small])


def compare(errors: dict[str, Errors], first: str, second: str) -> Comparison:
    """Two ways image by image."""
    a, b = errors[first].lpips, errors[second].lpips
    assert a is not None and b is not None
    gap = a - b
    half = 1.96 * float(gap.std(ddof=1)) / len(gap) ** 0.5 if len(gap) > 1 else 0.0
    mean = float(gap.mean())
    return Comparison(
        first=first,
        second=second,
        difference=mean,
        low=mean - half,
        high=mean + half,
        wins=float((gap < 0).mean()),
    )


def by_source(errors: dict[str, Errors], sources: Sequence[str]) -> dict[str, dict[str, Fidelity]]:
    """What was measured, by the source of the images and the way."""
    rows = {name: [i for i, own in enumerate(sources) if own == name] for name in sorted(set(sources))}
    return {
        name: {way: fidelity(own, places) for way, own in errors.items()} for name, places in rows.items()
    }


def named(progress: Progress | None, name: str) -> Progress | None:
    """Progress reported as that of measuring ``name``."""
    return None if progress is None else lambda _, done, of: progress(f"measuring {name}", done, of)
