"""Super-resolution of images: fitted to the tokenizer's grid, tokenised, enlarged, painted (section 3.1).

An image given as pixels keeps its shape. It is read at its own size, or enlarged to the tokenizer's where it
is smaller, and its right and bottom edges are repeated up to whole codes; all of that is undone at the end,
so the result is exactly ``times`` as large. Codes hold less than pixels do. For *faithful* results the pixels
have a say in which codes are drawn (:mod:`cogview.generation.pixel_prior`); and what was drawn is corrected
until it is the given image again when it is shrunk (iterative back-projection; Irani and Peleg, 1991): it
differs from a plain enlargement only in what that cannot know. Of that difference a share is taken,
``detail``: what is drawn is a guess, and a guess shrunk towards what is known is nearer to the truth.
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
from cogview.generation.pixel_prior import KNOWN, PAINTED, PixelLikelihood, PixelPrior
from cogview.generation.window_super_resolution import Small, enlarge
from cogview.generation.windows import scale_of, stages_of
from cogview.sequences.cogview import SequenceFormat
from cogview.tokenizers.loading import AnyImageTokenizer
from cogview.types import DETAIL, Ids, ProgressCallback, SamplingParams

MAX_CODES = 128 * 128  # of a result
MAX_SIZE = 1 << 16  # pixels of a shorter side that can be asked for
ROUNDS = 4  # of back-projection


@dataclass(frozen=True, eq=False)
class Original:
    """An image to enlarge.

    pixels: (3, H, W) float in [0, 1], sides multiples of the tokenizer's factor; None for an image of which
    only codes exist. codes: (rows, columns) int64. inside: (width, height) of the image without its
    repeated edges, size: what is to be enlarged ``times``.
    """

    codes: Ids
    pixels: Tensor | None = None
    inside: tuple[int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Request:
    """One image to make from an original: its text tokens, and (seed, index) of its random streams."""

    original: Original
    text: Sequence[int]
    seed: int
    index: int
    negative: Sequence[int] = ()


@dataclass(frozen=True)
class Upscaler:
    """A super-resolution model with its sequences and the tokenizer of its family."""

    engine: Engine
    form: SequenceFormat
    images: AnyImageTokenizer

    def stages(self, times: int) -> int:
        """How often the model is applied; CogViewError where its scale does not make ``times``."""
        return stages_of(self.form, times)

    @torch.inference_mode()
    def read(self, image: Image.Image, times: int, size: int | None = None) -> Original:
        """Fit and tokenise an RGB image.

        Args:
            size: of the shorter side, in pixels, at which it is read (default: its own, or the tokenizer's
                if that is larger).

        Raises CogViewError where the result would have more than ``MAX_CODES`` codes.
        """
        inside = self._inside(image.size, times, size)
        shown = image if inside == image.size else image.resize(inside, Image.Resampling.LANCZOS)
        pixels = self._padded(np.asarray(shown))
        grid = self._grid(inside)
        device = next(self.images.parameters()).device
        codes = self.images.encode(pixels[None].to(device))[0].cpu().numpy().reshape(grid)
        result = image.size if size is None else inside
        return Original(codes, pixels, inside, result)

    def _inside(self, size: tuple[int, int], times: int, asked: int | None) -> tuple[int, int]:
        """Width and height at which an image of ``size`` is read."""
        if asked is not None and not self._least <= asked <= MAX_SIZE:
            raise CogViewError(
                f"size is {asked}; this model reads pictures of {self._least} to {MAX_SIZE:,} px",
                field="size",
            )
        wanted = asked or max(min(size), self.images.image_size)
        inside, codes = self._resized(size, wanted), self._codes(size, wanted, times)
        if codes > MAX_CODES:
            smaller = range(wanted - 1, self._least - 1, -1)
            most = next((side for side in smaller if self._codes(size, side, times) <= MAX_CODES), None)
            way = f"read it smaller (size {most} or less)" if most else "cut it"
            raise CogViewError(
                f"{size[0]} x {size[1]} pixels, read with the shorter side at {wanted} and made {times} "
                f"times as large, would be {codes:,} codes, at most {MAX_CODES:,}; {way}"
            )
        return inside

    @staticmethod
    def _resized(size: tuple[int, int], shorter: int) -> tuple[int, int]:
        return round(size[0] * shorter / min(size)), round(size[1] * shorter / min(size))

    def _codes(self, size: tuple[int, int], shorter: int, times: int) -> int:
        """Codes of the result where an image of ``size`` is read with that shorter side."""
        rows, columns = self._grid(self._resized(size, shorter))
        return rows * columns * times**2

    @property
    def _factor(self) -> Fraction:
        """Pixels per code; images are padded to whole pixels and whole codes."""
        return Fraction(self.images.config.factor)

    @property
    def _least(self) -> int:
        """The shortest side that can be read, in pixels."""
        return math.ceil(max(self.form.context_grid or (1,)) * self._factor)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of codes that cover an image of (width, height)."""
        pixels, codes = self._factor.as_integer_ratio()
        return -(-size[1] // pixels) * codes, -(-size[0] // pixels) * codes

    def _padded(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 to (3, H', W') float, the last row and column repeated up to whole codes."""
        rows, columns = self._grid((pixels.shape[1], pixels.shape[0]))
        more = (int(rows * self._factor) - pixels.shape[0], int(columns * self._factor) - pixels.shape[1])
        filled = np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")
        return torch.from_numpy(filled).permute(2, 0, 1).float() / 255

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
        """(number, codes (rows, columns), image) of every request, in order.

        Between two stages the codes go on as they are: only pixels would have to be tokenised again.
        """
        stages = self.stages(times)
        seen = [self._seen(r.original) if faithful else None for r in requests]
        small = [
            Small(r.text, r.original.codes, r.seed, r.index, self._likelihood(own, 0), r.negative)
            for r, own in zip(requests, seen, strict=True)
        ]
        work = [len(small) * scale_of(self.form) ** (2 * stage) for stage in range(stages)]
        for stage in range(stages - 1):
            report = _share(progress, work, stage)
            drawn = dict(enlarge(self.engine, self.form, small, settings, batch_size, report, stage))
            small = [
                Small(s.text, drawn[n], s.seed, s.index, self._likelihood(seen[n], stage + 1), s.negative)
                for n, s in enumerate(small)
            ]
        report = _share(progress, work, stages - 1)
        last = enlarge(self.engine, self.form, small, settings, batch_size, report, stages - 1)
        for number, codes in last:
            yield number, codes, self.paint(codes, requests[number].original, times, faithful, detail)

    @cached_property
    def pixel_prior(self) -> PixelPrior | None:
        """None where the tokenizer has several scales."""
        return PixelPrior.of(self.images)

    @torch.inference_mode()
    def _seen(self, original: Original) -> tuple[Tensor, float]:
        """The small image (3, h, w), and how far it is to be believed."""
        if original.pixels is not None:
            return original.pixels, KNOWN
        return self._decoded(original.codes).clamp(0, 1), PAINTED

    def _likelihood(self, seen: tuple[Tensor, float] | None, stage: int) -> PixelLikelihood | None:
        """What a small image says of the codes that a stage draws."""
        if seen is None or self.pixel_prior is None:
            return None
        return self.pixel_prior.likelihood(seen[0], scale_of(self.form) ** (stage + 1), seen[1])

    def _decoded(self, codes: Ids) -> Tensor:
        """The image (3, H, W) of codes (rows, columns), on the CPU."""
        device = next(self.images.parameters()).device
        grid = (codes.shape[0], codes.shape[1])
        return self.images.decode(torch.from_numpy(codes.reshape(1, -1)).to(device), grid)[0].cpu()

    @torch.inference_mode()
    def paint(
        self,
        codes: Ids,
        original: Original,
        times: int,
        faithful: bool = True,
        detail: float = DETAIL,
    ) -> Image.Image:
        """The image of large codes (rows, columns), made faithful to its original and cut to its shape."""
        large = self._decoded(codes)
        if faithful and original.pixels is not None:
            large = corrected(large, original.pixels, detail)
        pixels: NDArray[np.uint8] = (large.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        image = Image.fromarray(pixels)
        if original.inside is None or original.size is None:
            return image
        image = image.crop((0, 0, original.inside[0] * times, original.inside[1] * times))
        wanted = (original.size[0] * times, original.size[1] * times)
        return image if image.size == wanted else image.resize(wanted, Image.Resampling.LANCZOS)


def corrected(large: Tensor, small: Tensor, detail: float = DETAIL) -> Tensor:
    """``large`` (3, H, W) made faithful to ``small`` (3, h, w), with a share of its detail; 0: bicubic."""
    plain = F.interpolate(small[None], scale_factor=large.shape[-1] // small.shape[-1], mode="bicubic")[0]
    return torch.lerp(plain, back_projected(large, small, ROUNDS), detail)


def back_projected(large: Tensor, small: Tensor, rounds: int) -> Tensor:
    """``large`` (3, H, W) corrected until its block means are ``small`` (3, h, w), nearly.

    Each round adds what is missing at the small size, enlarged bicubically; details of the large image that
    the small one cannot show stay.
    """
    times = large.shape[-1] // small.shape[-1]
    for _ in range(rounds):
        missing = small - F.avg_pool2d(large, times)
        large = large + F.interpolate(missing[None], scale_factor=times, mode="bicubic")[0]
    return large


def _share(progress: ProgressCallback | None, work: Sequence[int], stage: int) -> ProgressCallback | None:
    """Progress of one stage as a part of the whole, in thousandths."""
    if progress is None:
        return None
    before, own, total = sum(work[:stage]), work[stage], sum(work)
    return lambda done, of: progress(round(1000 * (before + own * done / of) / total), 1000)
