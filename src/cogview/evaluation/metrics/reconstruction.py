"""How much an image tokenizer loses: PSNR, SSIM and LPIPS of reconstructions; how its codebook is used.

Reconstructions are clamped and rounded to 8 bits first, as a user would get them. PSNR is given twice: the
mean over images, and pooled (of the mean squared error over all pixels of all images), which is lower.
SSIM is that of Wang et al. (2004): Gaussian window of 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03, windows
wholly inside the image, mean over the three colours. Codebook perplexity is exp of the entropy of the
codes used.
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
LEAST_ERROR = 1e-10  # of the mean square: an exact reconstruction counts as 100 dB


class Fidelity(Config):
    """Means over ``pictures`` images. PSNR in dB; ``lpips`` is None without its weights.

    ``intervals``: each figure by its name with its 95 % bootstrap interval over images.
    """

    pictures: int
    psnr: float
    psnr_pooled: float
    ssim: float
    lpips: float | None
    intervals: dict[str, Figure] = Field(default_factory=dict)


class CodebookUse(Config):
    """How many of ``codes`` the images use, and exp of the entropy of their use (at most ``codes``)."""

    codes: int
    used: int
    usage: float
    perplexity: float
    tokens: int


class ReconstructionReport(Config):
    """Everything ``cogview eval tokenizer`` measures and what it was measured with."""

    format: Literal[1] = 1
    overall: Fidelity
    by_source: dict[str, Fidelity]
    codebook: CodebookUse
    skipped: dict[str, int] = Field(default_factory=dict)
    facts: dict[str, str | int | float]


@dataclass(frozen=True)
class ImageArrays:
    """Pictures (n, size, size, 3) uint8, the source of each, and how many were left out and why."""

    pixels: NDArray[np.uint8]
    sources: list[str]
    skipped: dict[str, int]


@dataclass(frozen=True)
class Errors:
    """Per image, (n,) float64: mean squared error of values in [0, 1], SSIM, LPIPS if asked for."""

    square: NDArray[np.float64]
    ssim: NDArray[np.float64]
    lpips: NDArray[np.float64] | None


def load_images(
    data: Path, split: str | None, preprocessing: Preprocessing, limit: int | None = None
) -> ImageArrays:
    """The images of one split (None: all) of a folder or table; broken ones are counted and left out.

    With a ``limit``, that many evenly spaced ones of the split.

    Raises:
        CogViewError: nothing to read there, or no usable image of that split.
    """
    records = [r for r in open_source(data).records() if split is None or r.split == split]
    if limit is not None and limit < len(records):
        records = [records[i * len(records) // limit] for i in range(limit)]
    found: list[NDArray[np.uint8]] = []
    sources: list[str] = []
    skipped: dict[str, int] = {}
    for record in records:
        try:
            found.append(square(decode(record.image or b"").image, preprocessing))
            sources.append(record.source)
        except BadImage as error:
            skipped[error.reason] = skipped.get(error.reason, 0) + 1
    if not found:
        raise CogViewError(f"{data}: no readable picture of split {split!r}; choose another with --split")
    return ImageArrays(np.stack(found), sources, skipped)


def to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """(n, size, size, 3) uint8 to (n, 3, size, size) float in [0, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """(n, 3, size, size) in [0, 1], clamped and rounded, to (n, size, size, 3) uint8."""
    rounded = (images.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def reconstruct(
    tokenizer: AnyImageTokenizer,
    pictures: NDArray[np.uint8],
    batch: int = 32,
    progress: Progress | None = None,
) -> tuple[NDArray[np.uint8], Tensor]:
    """Pictures after encoding and decoding, (n, size, size, 3) uint8, and their codes (n, h * w) int64."""
    images, codes, device = [], [], next(tokenizer.parameters()).device
    for first in range(0, len(pictures), batch):
        own = tokenizer.encode(to_tensor(pictures[first : first + batch]).to(device))
        images.append(to_pixels(tokenizer.decode(own).cpu()))
        codes.append(own.cpu())
        if progress:
            progress("reconstructing", min(first + batch, len(pictures)), len(pictures))
    return np.concatenate(images), torch.cat(codes)


@torch.no_grad()
def measure(
    originals: NDArray[np.uint8],
    copies: NDArray[np.uint8],
    lpips: LPIPS | None = None,
    batch: int = 16,
    progress: Progress | None = None,
) -> Errors:
    """The errors of every image of (n, size, size, 3) uint8 against its copy."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for first in range(0, len(originals), batch):
        a, b = (to_tensor(pictures[first : first + batch]) for pictures in (originals, copies))
        far = torch.zeros(len(a)) if lpips is None else lpips(*(x.to(lpips.shift.device) for x in (a, b)))
        parts.append(((a - b).double().square().mean((1, 2, 3)), ssim(a, b), far.cpu()))
        if progress:
            progress("measuring", min(first + batch, len(originals)), len(originals))
    square, similar, distance = (torch.cat(values).double().numpy() for values in zip(*parts, strict=True))
    return Errors(square, similar, distance if lpips else None)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (batch,) float64 of images (batch, 3, H, W) in [0, 1], H and W at least 11."""
    line = torch.exp(-0.5 * (torch.arange(-5, 6, dtype=torch.float64) / 1.5) ** 2)
    kernel = (torch.outer(line, line) / line.sum() ** 2).expand(3, 1, 11, 11)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=3)

    a, b = a.double(), b.double()
    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    low, high = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + low) / (mean_a**2 + mean_b**2 + low)
    structure = (2 * both + high) / (var_a + var_b + high)
    return (luminance * structure).mean((1, 2, 3))


def fidelity(errors: Errors, rows: Sequence[int] | slice = slice(None), bootstrap: int = 1000) -> Fidelity:
    """The means over the images ``rows``, with intervals from ``bootstrap`` resampled sets (0: none)."""
    square = np.maximum(errors.square[rows], LEAST_ERROR)
    values = {"psnr": -10 * np.log10(square), "ssim": errors.ssim[rows]}
    if errors.lpips is not None:
        values["lpips"] = errors.lpips[rows]
    intervals = {name: mean_figure(own, bootstrap) for name, own in values.items()} if bootstrap else {}
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
    pictures: ImageArrays,
    lpips: LPIPS | None = None,
    progress: Progress | None = None,
) -> tuple[ReconstructionReport, NDArray[np.uint8]]:
    """Measure ``tokenizer`` on ``pictures`` of its own size; the report and the reconstructions."""
    copies, codes = reconstruct(tokenizer, pictures.pixels, progress=progress)
    errors = measure(pictures.pixels, copies, lpips, progress=progress)
    rows = {
        name: [i for i, own in enumerate(pictures.sources) if own == name]
        for name in sorted(set(pictures.sources))
    }
    report = ReconstructionReport(
        overall=fidelity(errors),
        by_source={name: fidelity(errors, own) for name, own in rows.items()},
        codebook=codebook_use(codes, tokenizer.codes),
        skipped=pictures.skipped,
        facts={
            "tokenizer": tokenizer.fingerprint,
            "image_size": tokenizer.image_size,
            "codes": codes.shape[1],
        },
    )
    return report, copies


def spread(sources: Sequence[str], count: int) -> list[int]:
    """``count`` row numbers that take turns over the sources, evenly spaced within each."""
    pools = {name: [i for i, own in enumerate(sources) if own == name] for name in sorted(set(sources))}
    turns = list(_turns([len(pool) for pool in pools.values()], min(count, len(sources))))
    return [
        pool[i * len(pool) // share]
        for pool, share in zip(pools.values(), map(turns.count, range(len(pools))), strict=True)
        for i in range(share)
    ]


def _turns(sizes: Sequence[int], count: int) -> Iterator[int]:
    """``count`` pool numbers, one after the other, skipping pools that are used up."""
    left = list(sizes)
    while count:
        for i, size in enumerate(left):
            if size and count:
                left[i], count = size - 1, count - 1
                yield i
