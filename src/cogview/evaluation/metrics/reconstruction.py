"""Reconstruction quality of an image tokenizer: PSNR, SSIM and LPIPS; usage of its codebook.

Reconstructions are clamped and rounded to 8 bits first, as in image files. PSNR is reported twice: as the
mean over images, and pooled (from the mean squared error over all pixels of all images), which is lower. SSIM
is that of Wang et al. (2004): Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, windows
completely inside the image, mean over the three channels. Codebook perplexity is exp of the entropy of the
code usage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from cogview.config import Config
from cogview.data.images import BadImage, decode, square
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.errors import CogViewError
from cogview.evaluation.metrics.accuracy import Figure, figure
from cogview.evaluation.metrics.intervals import mean_figure, resampled_means
from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.tokenizers.perceptual import LPIPS

Progress = Callable[[str, int, int], None]
LEAST_ERROR = 1e-10  # lower bound of the mean squared error: an exact reconstruction counts as 100 dB


class Fidelity(Config):
    """Means over ``pictures`` images. PSNR in dB; ``lpips`` is None if it was not measured.

    ``intervals``: each metric by its name, with its 95 % bootstrap interval over images.
    """

    pictures: int
    psnr: float
    psnr_pooled: float
    ssim: float
    lpips: float | None
    intervals: dict[str, Figure] = Field(default_factory=dict)


class CodebookUse(Config):
    """How many of ``codes`` codes the images use, and the perplexity of their usage (at most ``codes``)."""

    codes: int
    used: int
    usage: float
    perplexity: float
    tokens: int


class ReconstructionReport(Config):
    """The results of ``cogview eval tokenizer`` and the facts behind them."""

    format: Literal[1] = 1
    overall: Fidelity
    by_source: dict[str, Fidelity]
    codebook: CodebookUse
    skipped: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, str | int | float]


@dataclass(frozen=True)
class ImageArrays:
    """Images (n, size, size, 3) uint8, the source of each, and the number of skipped ones by reason."""

    pixels: NDArray[np.uint8]
    sources: list[str]
    skipped: dict[str, int]


@dataclass(frozen=True)
class Errors:
    """Per image, (n,) float64: mean squared error of values in [0, 1], SSIM, and LPIPS if measured."""

    square: NDArray[np.float64]
    ssim: NDArray[np.float64]
    lpips: NDArray[np.float64] | None


def load_images(
    data: Path, split: str | None, preprocessing: Preprocessing, limit: int | None = None
) -> ImageArrays:
    """Load the images of one split (None: all) of a folder or table; broken ones are skipped and counted.

    With a ``limit``, that many evenly spaced images of the split.

    Raises:
        CogViewError: there is no usable image of that split.
    """
    records = [r for r in open_source(data).records() if split is None or r.split == split]
    if limit is not None and limit < len(records):
        records = [records[i * len(records) // limit] for i in range(limit)]
    images: list[NDArray[np.uint8]] = []
    sources: list[str] = []
    skipped: dict[str, int] = {}
    for record in records:
        try:
            images.append(square(decode(record.image or b"").image, preprocessing))
            sources.append(record.source)
        except BadImage as error:
            skipped[error.reason] = skipped.get(error.reason, 0) + 1
    if not images:
        raise CogViewError(f"{data}: no readable image of split {split!r}; choose another with --split")
    return ImageArrays(np.stack(images), sources, skipped)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(n, size, size, 3) uint8 to (n, 3, size, size) float in [0, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(n, 3, size, size) in [0, 1], clamped and rounded, to (n, size, size, 3) uint8."""
    rounded = (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def reconstruct(
    tokenizer: AnyImageTokenizer,
    pixels: NDArray[np.uint8],
    batch: int = 32,
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], Tensor]:
    """Encode and decode images: reconstructions (n, size, size, 3) uint8, and codes (n, h * w) int64."""
    copies, codes, device = [], [], next(tokenizer.parameters()).device
    for first in range(0, len(pixels), batch):
        batch_codes = tokenizer.encode(to_tensor(pixels[first : first + batch]).to(device))
        copies.append(to_pixels(tokenizer.decode(batch_codes).cpu()))
        codes.append(batch_codes.cpu())
        if progress:
            progress("reconstructing", min(first + batch, len(pixels)), len(pixels))
    return np.concatenate(copies), torch.cat(codes)


@torch.no_grad()
def measure(
    originals: NDArray[np.uint8],
    copies: NDArray[np.uint8],
    lpips: LPIPS | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Errors:
    """The errors of each copy against its original, (n, size, size, 3) uint8 each."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(originals), batch):
        a, b = (to_tensor(pixels[first : first + batch]) for pixels in (originals, copies))
        distance = (
            torch.zeros(len(a)) if lpips is None else lpips(*(x.to(lpips.shift.device) for x in (a, b)))
        )
        parts.append(((a - b).double().square().mean((1, 2, 3)), ssim(a, b), distance.cpu()))
        if progress:
            progress("measuring", min(first + batch, len(originals)), len(originals))
    square, similarity, distances = (torch.cat(v).double().numpy() for v in zip(*parts, strict=True))
    return Errors(square, similarity, distances if lpips else None)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (batch,) float64 of images (batch, 3, H, W) in [0, 1], H and W at least 11."""
    line = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=3)

    a, b = a.double(), b.double()
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean((1, 2, 3))


def fidelity(errors: Errors, rows: Sequence[int] | slice = slice(None), bootstrap: int = 1000) -> Fidelity:
    """The means over the images ``rows``, with intervals from ``bootstrap`` resampled sets (0: none)."""
    square = np.maximum(errors.square[rows], LEAST_ERROR)
    values = {"psnr": -10 * np.log10(square), "ssim": errors.ssim[rows]}
    if errors.lpips is not None:
        values["lpips"] = errors.lpips[rows]
    intervals = {name: mean_figure(v, bootstrap) for name, v in values.items()} if bootstrap else {}
    if bootstrap:
        intervals["psnr_pooled"] = figure(-10 * np.log10(resampled_means(square, bootstrap, 0)))
    return Fidelity(
        pictures=len(square),
        psnr=float(values["psnr"].mean()),
        psnr_pooled=float(-10 * np.log10(square.mean())),
        ssim=float(values["ssim"].mean()),
        lpips=None if errors.lpips is None else float(values["lpips"].mean()),
        intervals=intervals,
    )


def codebook_use(codes: Tensor, size: int) -> CodebookUse:
    """Usage and perplexity of ``codes`` (any shape, int64) in a codebook of ``size``."""
    counts = torch.bincount(codes.flatten(), minlength=size).double()
    shares = counts[counts > 0] / counts.sum()
    entropy = -(shares * shares.log()).sum()
    used = int((counts > 0).sum())
    return CodebookUse(
        codes=size, used=used, usage=used / size, perplexity=float(entropy.exp()), tokens=codes.numel()
    )


def evaluate_tokenizer(
    tokenizer: AnyImageTokenizer,
    images: ImageArrays,
    lpips: LPIPS | None = None,
    progress: Progress | None = None,
) -> tuple[ReconstructionReport, NDArray[np.uint8]]:
    """Measure ``tokenizer`` on ``images`` of its size; returns the report and the reconstructions."""
    copies, codes = reconstruct(tokenizer, images.pixels, progress=progress)
    errors = measure(images.pixels, copies, lpips, progress=progress)
    rows = {
        name: [i for i, source in enumerate(images.sources) if source == name]
        for name in sorted(set(images.sources))
    }
    report = ReconstructionReport(
        overall=fidelity(errors),
        by_source={name: fidelity(errors, of_source) for name, of_source in rows.items()},
        codebook=codebook_use(codes, tokenizer.codes),
        skipped=images.skipped,
        facts={
            "tokenizer": tokenizer.fingerprint,
            "image_size": tokenizer.image_size,
            "codes": codes.shape[1],
        },
    )
    return report, copies


def spread(sources: Sequence[str], count: int) -> list[int]:
    """``count`` row indices, divided evenly over the sources and evenly spaced within each."""
    pools = {name: [i for i, source in enumerate(sources) if source == name] for name in sorted(set(sources))}
    turns = list(_turns([len(pool) for pool in pools.values()], min(count, len(sources))))
    return [
        pool[i * len(pool) // share]
        for pool, share in zip(pools.values(), map(turns.count, range(len(pools))), strict=True)
        for i in range(share)
    ]


def _turns(sizes: Sequence[int], count: int) -> Iterator[int]:
    """``count`` indices of pools in round-robin order, skipping exhausted pools."""
    remaining = list(sizes)
    while count:
        for i, size in enumerate(remaining):
            if size and count:
                remaining[i], count = size - 1, count - 1
                yield i
