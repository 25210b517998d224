"""Super-resolution of images: pad to the tokenizer's grid, encode, upscale the codes, decode (section 3.1).

An image keeps its aspect ratio. It is read at its own size, or resized to the tokenizer's if it is smaller,
and its right and bottom edges are replicated up to full codes. All of this is undone at the end, so the
result is exactly ``times`` as large. Codes contain less information than pixels. For *faithful* results the
pixels serve as a prior for the sampled codes (:mod:`cogview.generation.pixel_prior`), and the decoded image
is corrected until it downscales to the input (iterative back-projection; Irani and Peleg, 1991): it differs
from bicubic upscaling only in detail that the input cannot determine. The fraction ``detail`` of that
difference is added: generated detail is uncertain, and shrinking it towards the known image reduces the
error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.generation.engine import Engine
from cogview.generation.pixel_prior import DECODED, KNOWN, PixelLikelihood, PixelPrior
from cogview.generation.window_super_resolution import SmallImage, upscale_codes
from cogview.generation.windows import scale_of, stages_of
from cogview.sequences.cogview import SequenceFormat
from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.types import DETAIL, Ids, ProgressCallback, SamplingParams

MAX_CODES = 128 * 128  # in a result
MAX_SIZE = 1 << 16  # largest ``size``, in pixels
ROUNDS = 4  # iterations of back-projection


@dataclass(frozen=True, eq=False)
class Original:
    """An encoded image to upscale.

    pixels: (3, H, W) float in [0, 1], sides multiples of the tokenizer's factor; None for an image of which
    only codes exist. codes: (rows, columns) int64. inside: (width, height) of the image without padding;
    size: (width, height) that is multiplied by ``times`` in the result.
    """

    codes: Ids
    pixels: Tensor | None = None
    inside: tuple[int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Request:
    """One result to generate: the original, its text tokens, (seed, index) of its random streams, and the
    tokens that guidance moves away from."""

    original: Original
    text: Sequence[int]
    seed: int
    index: int
    negative: Sequence[int] = ()


@dataclass(frozen=True)
class Upscaler:
    """A super-resolution model with its sequence format and image tokenizer."""

    engine: Engine
    format: SequenceFormat
    images: AnyImageTokenizer

    def stages(self, times: int) -> int:
        """How often the model is applied; raises CogViewError if its scale cannot reach ``times``."""
        return stages_of(self.format, times)

    @torch.inference_mode()
    def read(self, image: Image.Image, times: int, size: int | None = None) -> Original:
        """Resize, pad and encode an RGB image.

        Args:
            size: the shorter side in pixels to resize the image to (default: its own, or the tokenizer's if
                that is larger).

        Raises:
            CogViewError: the result would have more than ``MAX_CODES`` codes, or ``size`` is out of range.
        """
        inside = self._inside(image.size, times, size)
        resized = image if inside == image.size else image.resize(inside, Image.Resampling.LANCZOS)
        pixels = self._padded(np.asarray(resized))
        grid = self._grid(inside)
        device = next(self.images.parameters()).device
        codes = self.images.encode(pixels[None].to(device))[0].cpu().numpy().reshape(grid)
        result = image.size if size is None else inside
        return Original(codes, pixels, inside, result)

    def _inside(self, size: tuple[int, int], times: int, requested: int | None) -> tuple[int, int]:
        """Width and height that an image of ``size`` is resized to."""
        if requested is not None and not self._least <= requested <= MAX_SIZE:
            raise CogViewError(
                f"size is {requested}; this model reads images of {self._least} to {MAX_SIZE:,} px",
                field="size",
            )
        shorter = requested or max(min(size), self.images.image_size)
        inside, codes = self._resized(size, shorter), self._codes(size, shorter, times)
        if codes > MAX_CODES:
            smaller = range(shorter - 1, self._least - 1, -1)
            most = next((side for side in smaller if self._codes(size, side, times) <= MAX_CODES), None)
            remedy = f"use size {most} or less" if most else "crop it"
            raise CogViewError(
                f"{size[0]} x {size[1]} pixels, read with the shorter side at {shorter} and upscaled {times} "
                f"times, would be {codes:,} codes, at most {MAX_CODES:,}; {remedy}"
            )
        return inside

    @staticmethod
    def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
        return round(size[0] * shorter / min(size)), round(size[1] * shorter / min(size))

    def _codes(self, size: tuple[int, int], shorter: int, times: int) -> int:
        """Number of codes of the result for an image of ``size`` that is read with this shorter side."""
        rows, columns = self._grid(self._resized(size, shorter))
        return rows * columns * times**2

    @property
    def _factor(self) -> Fraction:
        """Pixels per code; images are padded to integer numbers of pixels and codes."""
        return Fraction(self.images.config.factor)

    @property
    def _least(self) -> int:
        """The smallest side that can be read, in pixels."""
        return math.ceil(max(self.format.context_grid or (1,)) * self._factor)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of codes that cover an image of (width, height)."""
        pixels, codes = self._factor.as_integer_ratio()
        return -(-size[1] // pixels) * codes, -(-size[0] // pixels) * codes

    def _padded(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 to (3, H', W') float, with the last row and column replicated up to full codes."""
        rows, columns = self._grid((pixels.shape[1], pixels.shape[0]))
        more = (int(rows * self._factor) - pixels.shape[0], int(columns * self._factor) - pixels.shape[1])
        padded = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
        return torch.from_numpy(padded).permute(2, 0, 1).float() / 255

    def run(
        self,
        requests: Sequence[Request],
        times: int,
        settings: SamplingParams,
        faithful: bool = True,
        detail: float = DETAIL,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Iterator[tuple[int, Ids, Image.Image]]:
        """Upscale; yields (number, codes (rows, columns), image) of every request, in order.

        A second stage reads the codes of the first directly, without decoding and encoding them.
        """
        stages = self.stages(times)
        known = [self._known_pixels(r.original) if faithful else None for r in requests]
        small = [
            SmallImage(r.text, r.original.codes, r.seed, r.index, self._likelihood(pixels, 0), r.negative)
            for r, pixels in zip(requests, known, strict=True)
        ]
        work = [len(small) * scale_of(self.format) ** (2 * stage) for stage in range(stages)]
        for stage in range(stages - 1):
            report = _share(progress, work, stage)
            large = dict(upscale_codes(self.engine, self.format, small, settings, batch_size, report, stage))
            small = [
                SmallImage(
                    s.text, large[n], s.seed, s.index, self._likelihood(known[n], stage + 1), s.negative
                )
                for n, s in enumerate(small)
            ]
        report = _share(progress, work, stages - 1)
        last = upscale_codes(self.engine, self.format, small, settings, batch_size, report, stages - 1)
        for number, codes in last:
            yield number, codes, self.decode(codes, requests[number].original, times, faithful, detail)

    @cached_property
    def pixel_prior(self) -> PixelPrior | None:
        """The pixel prior; None if the tokenizer has several scales."""
        return PixelPrior.of(self.images)

    @torch.inference_mode()
    def _known_pixels(self, original: Original) -> tuple[Tensor, float]:
        """The small image (3, h, w), and the slope of its likelihood."""
        if original.pixels is not None:
            return original.pixels, KNOWN
        return self._decoded(original.codes).clamp(0, 1), DECODED

    def _likelihood(self, known: tuple[Tensor, float] | None, stage: int) -> PixelLikelihood | None:
        """The likelihoods of the codes that a stage generates, given the small image."""
        if known is None or self.pixel_prior is None:
            return None
        pixels, slope = known
        return self.pixel_prior.likelihood(pixels, scale_of(self.format) ** (stage + 1), slope)

    def _decoded(self, codes: Ids) -> Tensor:
        """Decode codes (rows, columns) to an image (3, H, W) on the CPU."""
        device = next(self.images.parameters()).device
        grid = (codes.shape[0], codes.shape[1])
        return self.images.decode(torch.from_numpy(codes.reshape(1, -1)).to(device), grid)[0].cpu()

    @torch.inference_mode()
    def decode(
        self,
        codes: Ids,
        original: Original,
        times: int,
        faithful: bool = True,
        detail: float = DETAIL,
    ) -> Image.Image:
        """Decode large codes (rows, columns), correct the image by its original and crop the padding."""
        large = self._decoded(codes)
        if faithful and original.pixels is not None:
            large = corrected(large, original.pixels, detail)
        pixels: NDArray[np.uint8] = (large.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels)
        if original.inside is None or original.size is None:
            return image
        image = image.crop((0, 0, original.inside[0] * times, original.inside[1] * times))
        target = (original.size[0] * times, original.size[1] * times)
        return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)


def corrected(large: Tensor, small: Tensor, detail: float = DETAIL) -> Tensor:
    """``large`` (3, H, W) corrected to downscale to ``small`` (3, h, w), with a fraction of its detail; 0 is
    bicubic upscaling."""
    bicubic = F.interpolate(small[None], scale_factor=large.shape[-1] // small.shape[-1], mode="bicubic")[0]
    return torch.lerp(bicubic, back_projected(large, small, ROUNDS), detail)


def back_projected(large: Tensor, small: Tensor, rounds: int) -> Tensor:
    """``large`` (3, H, W) corrected until its block means approximate ``small`` (3, h, w).

    Each round adds the bicubically upscaled residual at the small size; detail that the small image cannot
    represent is preserved.
    """
    times = large.shape[-1] // small.shape[-1]
    for _ in range(rounds):
        residual = small - F.avg_pool2d(large, times)
        large = large + F.interpolate(residual[None], scale_factor=times, mode="bicubic")[0]
    return large


def _share(progress: ProgressCallback | None, work: Sequence[int], stage: int) -> ProgressCallback | None:
    """Converts the progress of one stage to that of all stages, in thousandths."""
    if progress is None:
        return None
    before, size, total = sum(work[:stage]), work[stage], sum(work)
    return lambda done, of: progress(round(1000 * (before + size * done / of) / total), 1000)
