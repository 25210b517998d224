"""Super-resolution with an exported model: codes window by window, and images corrected by their input.

The counterpart of ``generation.window_super_resolution`` and ``generation.image_upscaling`` without PyTorch
(CogView, section 3.1).
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

MAX_CODES = 128 * 128  # in a result

Likelihood = Callable[[int, int], Floats]  # row, column -> log-likelihoods (codes,)


@dataclass(frozen=True, eq=False)
class Original:
    """An encoded image to upscale: codes (rows, columns) and pixels (3, H, W) in [0, 1].

    inside: (width, height) without padding; size: (width, height) that is multiplied by ``times`` in the
    result. All but the codes are None for an image of which only codes exist.
    """

    codes: Ids
    pixels: Floats | None = None
    inside: tuple[int, int] | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Upscaler:
    """A super-resolution model and its family's image tokenizer."""

    engine: Engine
    format: SequenceFormat
    exported: Exported

    def stages(self, times: int) -> int:
        """How often the model is applied; raises CogViewError if its scale cannot reach ``times``."""
        return stages_of(self.format, times)

    def read(self, image: Image.Image, times: int) -> Original:
        """Encode an RGB image; raises CogViewError if the result would have more than ``MAX_CODES`` codes."""
        facts = self.exported.manifest.image
        shorter = max(min(image.size), facts.image_size)
        inside = (
            round(image.width * shorter / min(image.size)),
            round(image.height * shorter / min(image.size)),
        )
        rows, columns = self._grid(inside)
        if rows * columns * times**2 > MAX_CODES:
            raise CogViewError(
                f"{image.width} x {image.height} pixels upscaled {times} times would be "
                f"{rows * columns * times**2:,} codes, at most {MAX_CODES:,}; crop it, or make it smaller"
            )
        resized = image if inside == image.size else image.resize(inside, Image.Resampling.LANCZOS)
        pixels = self._padded(np.asarray(resized))
        return Original(self.exported.encode(pixels)[1], pixels, inside, image.size)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """(rows, columns) of codes that cover an image of (width, height)."""
        pixels, codes = self.exported.manifest.image.factor
        return -(-size[1] // pixels) * codes, -(-size[0] // pixels) * codes

    def _padded(self, pixels: NDArray[np.uint8]) -> Floats:
        """(H, W, 3) uint8 to (3, H', W') float, with the last row and column replicated up to full codes."""
        numerator, denominator = self.exported.manifest.image.factor
        rows, columns = self._grid((pixels.shape[1], pixels.shape[0]))
        sides = (rows * numerator // denominator, columns * numerator // denominator)
        padding = [(0, target - side) for target, side in zip(sides, pixels.shape[:2], strict=True)]
        padded = np.pad(pixels, (*padding, (0, 0)), mode="edge")
        return np.ascontiguousarray(padded.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)

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
        """Upscale; returns the large image's codes (rows, columns) and the image, ``times`` as large."""
        codes, scale = original.codes, scale_of(self.format)
        for stage in range(self.stages(times)):
            likelihood = self._likelihood(original, scale ** (stage + 1)) if faithful else None
            codes = self._upscale_codes(codes, text, negative, seed, index, params, likelihood, stage)
        large = self.exported.decode(codes)
        if faithful and original.pixels is not None:
            rounds = self.exported.manifest.image.upscaling.rounds
            large = corrected(large, original.pixels, detail, rounds)
        return codes, self._image(large, original, times)

    def _image(self, large: Floats, original: Original, times: int) -> Image.Image:
        """The image, cropped and resized to the size of the result."""
        image = image_of(large)
        if original.inside is None or original.size is None:
            return image
        image = image.crop((0, 0, original.inside[0] * times, original.inside[1] * times))
        target = (original.size[0] * times, original.size[1] * times)
        return image if image.size == target else image.resize(target, Image.Resampling.LANCZOS)

    def _upscale_codes(
        self,
        small: Ids,
        text: Sequence[int],
        negative: Sequence[int],
        seed: int,
        index: int,
        params: SamplingParams,
        likelihood: Likelihood | None,
        stage: int,
    ) -> Ids:
        """Generate the codes of the large image; the windows of one turn run in one batch."""
        format, scale = self.format, scale_of(self.format)
        canvas = np.full((small.shape[0] * scale, small.shape[1] * scale), -1)
        for ready in turns({0: plan(format, small, scale)}):
            views = [view(canvas, window, format.grid[1]) for _, window in ready]
            requests = []
            for (_, window), known in zip(ready, views, strict=True):
                part, guided = under(format, small, window).ravel(), params.guidance_scale != 1
                prompt = format.image_prompt(text, part, known.size)
                other = format.image_prompt(negative, part, known.size) if guided else None
                stream = stream_of(index, stage, window.number)
                at = None if likelihood is None else _in_window(likelihood, window, known.shape[1])
                requests.append(Request(prompt, seed, stream, other, known.flatten(), at))
            for number, tokens in self.engine.generate(requests, params):
                views[number][...] = tokens.reshape(views[number].shape)
        return canvas

    def _likelihood(self, original: Original, times: int) -> Likelihood:
        """The log-likelihoods of the codes of an image ``times`` as large (``generation.pixel_prior``)."""
        facts = self.exported.manifest.image.upscaling
        known = original.pixels is not None
        pixels = original.pixels if original.pixels is not None else self.exported.decode(original.codes)
        vectors, _ = self.exported.encode(np.clip(bicubic(np.clip(pixels, 0, 1), times), 0, 1))
        slope, width = np.float32(facts.known if known else facts.painted), np.float32(facts.width)

        @lru_cache(maxsize=4096)
        def at(row: int, column: int) -> Floats:
            distances = self.exported.distances(vectors[row, column][None])[0]
            log_likelihoods: Floats = -slope * np.log(np.maximum(distances, 0) + width)
            return log_likelihoods

        return at


def _in_window(likelihood: Likelihood, window: Window, columns: int) -> Callable[[int], Floats]:
    """Log-likelihoods of a window's codes, in raster order."""
    return lambda step: likelihood(window.top + step // columns, window.left + step % columns)


def image_of(pixels: Floats) -> Image.Image:
    """Pixels (3, H, W), clamped to [0, 1], as an RGB image."""
    rounded = np.round(np.clip(pixels, 0, 1) * np.float32(255)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(rounded.transpose(1, 2, 0)))


def corrected(large: Floats, small: Floats, detail: float, rounds: int) -> Floats:
    """``large`` (3, H, W) corrected to downscale to ``small`` (3, h, w), with a fraction of its detail; 0 is
    bicubic upscaling.

    Each round adds the bicubically upscaled difference between the small image and its block means.
    """
    times = large.shape[-1] // small.shape[-1]
    blocks = (3, small.shape[1], times, small.shape[2], times)
    for _ in range(rounds):
        residual = small - large.reshape(blocks).mean((2, 4), dtype=np.float32)
        large = large + bicubic(residual, times)
    smooth = bicubic(small, times)
    return smooth + np.float32(detail) * (large - smooth)


def bicubic(pixels: Floats, times: int) -> Floats:
    """Upscale pixels (3, h, w) by an integer factor, as PyTorch's ``interpolate``."""
    rows, columns = (_cubic_weights(side, times) for side in pixels.shape[1:])
    large: Floats = np.matmul(np.matmul(rows, pixels), columns.T)
    return large


@lru_cache(maxsize=32)
def _cubic_weights(side: int, times: int) -> Floats:
    """The matrix (side * times, side) of cubic convolution (Keys, a = -0.75); edges are replicated."""
    centres = (np.arange(side * times) + 0.5) / times - 0.5
    first = np.floor(centres)
    matrix, a = np.zeros((side * times, side)), -0.75
    for offset in (-1, 0, 1, 2):
        x = np.abs(centres - (first + offset))
        near = ((a + 2) * x - (a + 3)) * x**2 + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        columns = np.clip(first + offset, 0, side - 1).astype(np.int64)
        np.add.at(matrix, (np.arange(side * times), columns), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)
