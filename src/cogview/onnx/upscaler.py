"""Super-resolution with an exported model: codes window by window, and images made faithful to their input.

What ``generation.window_super_resolution`` and ``generation.upscaling`` do with PyTorch (CogView,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.errors import CogViewError
from cogview.generation.windows import Window, plan, scale_of, stages_of, stream_of, turns, under, view
from cogview.onnx.decoding import Engine, Request
from cogview.onnx.draws import Floats
from cogview.onnx.sessions import Exported
from cogview.sequences.cogview import SequenceFormat
from cogview.types import DETAIL, Ids, SamplingParams

MAX_CODES = 128 * 128  # of a result

Likelihood = Callable[[int, int], Floats]  # of a row and a column: (codes,)


@dataclass(frozen=True, eq=False)
class Original:
    """An image to upscale: codes (rows, columns); pixels (3, H, W) in [0, 1] and what they are of.

    inside: (width, height) without its repeated edges; size: of what is to be upscaled. None of the three
    where only codes exist.
    """

    codes: Ids
    pixels: Floats | None = None
    inside: tuple[int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Upscaler:
    """A super-resolution model and its family's image tokenizer."""

    engine: Engine
    form: SequenceFormat
    exported: Exported

    def stages(self, times: int) -> int:
        """How often the model is applied; CogViewError where its scale does not make ``times``."""
        return stages_of(self.form, times)

    def read(self, image: Image.Image, times: int) -> Original:
        """Tokenise an RGB image; CogViewError where the result would have more than ``MAX_CODES`` codes."""
        facts = self.exported.manifest.image
        shorter = max(min(image.size), facts.image_size)
        inside = (
            round(image.width * shorter / min(image.size)),
            round(image.height * shorter / min(image.size)),
        )
        rows, columns = self._grid(inside)
        if rows * columns * times**2 > MAX_CODES:
            raise CogViewError(
                f"{image.width} x {image.height} pixels made {times} times as large would be "
                f"{rows * columns * times**2:,} codes, at most {MAX_CODES:,}; cut it, or make it smaller"
            )
        shown = image if inside == image.size else image.resize(inside, Image.Resampling.LANCZOS)
        pixels = self._padded(np.asarray(shown))
        return Original(self.exported.encode(pixels)[1], pixels, inside, image.size)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of codes that cover an image of (width, height)."""
        pixels, codes = self.exported.manifest.image.factor
        return -(-size[1] // pixels) * codes, -(-size[0] // pixels) * codes

    def _padded(self, pixels: NDArray[np.uint8]) -> Floats:
        """(H, W, 3) uint8 to (3, H', W') float, the last row and column repeated up to whole codes."""
        numerator, denominator = self.exported.manifest.image.factor
        rows, columns = self._grid((pixels.shape[1], pixels.shape[0]))
        sides = (rows * numerator // denominator, columns * numerator // denominator)
        more = [(0, side - own) for side, own in zip(sides, pixels.shape[:2], strict=True)]
        filled = np.pad(pixels, (*more, (0, 0)), mode="edge")
        return np.ascontiguousarray(filled.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)

    def run(
        self,
        original: Original,
        text: Sequence[int],
        seed: int,
        index: int,
        times: int,
        params: SamplingParams,
        negative: Sequence[int] = (),
        faithful: bool = True,
        detail: float = DETAIL,
    ) -> tuple[Ids, Image.Image]:
        """Codes (rows, columns) and the image, ``times`` as large."""
        codes, scale = original.codes, scale_of(self.form)
        for stage in range(self.stages(times)):
            likely = self._likelihood(original, scale ** (stage + 1)) if faithful else None
            codes = self._enlarged(codes, text, negative, seed, index, params, likely, stage)
        large = self.exported.decode(codes)
        if faithful and original.pixels is not None:
            rounds = self.exported.manifest.image.upscaling.rounds
            large = corrected(large, original.pixels, detail, rounds)
        return codes, self._image(large, original, times)

    def _image(self, large: Floats, original: Original, times: int) -> Image.Image:
        """An image cut to its shape."""
        image = image_of(large)
        if original.inside is None or original.size is None:
            return image
        image = image.crop((0, 0, original.inside[0] * times, original.inside[1] * times))
        wanted = (original.size[0] * times, original.size[1] * times)
        return image if image.size == wanted else image.resize(wanted, Image.Resampling.LANCZOS)

    def _enlarged(
        self,
        small: Ids,
        text: Sequence[int],
        negative: Sequence[int],
        seed: int,
        index: int,
        params: SamplingParams,
        likely: Likelihood | None,
        stage: int,
    ) -> Ids:
        """Codes of the large image of small ones, the windows of one turn together."""
        form, scale = self.form, scale_of(self.form)
        canvas = np.full((small.shape[0] * scale, small.shape[1] * scale), -1)
        for ready in turns({0: plan(form, small, scale)}):
            views = [view(canvas, window, form.grid[1]) for _, window in ready]
            jobs = []
            for (_, window), own in zip(ready, views, strict=True):
                part, guided = under(form, small, window).ravel(), params.guidance_scale != 1
                prompt = form.image_prompt(text, part, own.size)
                other = form.image_prompt(negative, part, own.size) if guided else None
                stream = stream_of(index, stage, window.number)
                at = None if likely is None else _inside(likely, window, own.shape[1])
                jobs.append(Request(prompt, seed, stream, other, own.flatten(), at))
            for number, tokens in self.engine.generate(jobs, params):
                views[number][...] = tokens.reshape(views[number].shape)
        return canvas

    def _likelihood(self, original: Original, times: int) -> Likelihood:
        """Log-likelihoods (codes,) of the code at a row and column of an image ``times`` as large
        (``generation.pixel_prior``)."""
        facts = self.exported.manifest.image.upscaling
        known = original.pixels is not None
        pixels = original.pixels if original.pixels is not None else self.exported.decode(original.codes)
        vectors, _ = self.exported.encode(np.clip(bicubic(np.clip(pixels, 0, 1), times), 0, 1))
        slope, width = np.float32(facts.known if known else facts.painted), np.float32(facts.width)

        @lru_cache(maxsize=4096)
        def at(row: int, column: int) -> Floats:
            distances = self.exported.distances(vectors[row, column][None])[0]
            found: Floats = -slope * np.log(np.maximum(distances, 0) + width)
            return found

        return at


def _inside(likely: Likelihood, window: Window, columns: int) -> Callable[[int], Floats]:
    """Log-likelihoods of a window's codes, counted row by row."""
    return lambda step: likely(window.top + step // columns, window.left + step % columns)


def image_of(pixels: Floats) -> Image.Image:
    """The RGB image of pixels (3, H, W), clamped to [0, 1]."""
    rounded = np.round(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(rounded.transpose(1, 2, 0)))


def corrected(large: Floats, small: Floats, detail: float, rounds: int) -> Floats:
    """``large`` (3, H, W) made faithful to ``small`` (3, h, w), with a share of its detail; 0: bicubic.

    Each round adds what its block means lack of the small image, enlarged bicubically.
    """
    times = large.shape[-1] // small.shape[-1]
    blocks = (3, small.shape[1], times, small.shape[2], times)
    for _ in range(rounds):
        missing = small - large.reshape(blocks).mean((2, 4), dtype=np.float32)
        large = large + bicubic(missing, times)
    plain = bicubic(small, times)
    return plain + np.float32(detail) * (large - plain)


def bicubic(pixels: Floats, times: int) -> Floats:
    """Pixels (3, h, w) enlarged a whole number of times, as PyTorch's ``interpolate`` does it."""
    rows, columns = (_cubic_weights(side, times) for side in pixels.shape[1:])
    found: Floats = np.matmul(np.matmul(rows, pixels), columns.T)
    return found


@lru_cache(maxsize=32)
def _cubic_weights(side: int, times: int) -> Floats:
    """The matrix (side * times, side) of cubic convolution (Keys, a = -0.75); edges are repeated."""
    centres = (np.arange(side * times) + 0.5) / times - 0.5
    first = np.floor(centres)
    matrix, a = np.zeros((side * times, side)), -0.75
    for offset in (-1, 0, 1, 2):
        x = np.abs(centres - (first + offset))
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        places = np.clip(first + offset, 0, side - 1).astype(np.int64)
        np.add.at(matrix, (np.arange(side * times), places), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)
