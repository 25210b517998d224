"""Inpainting with an exported CogLM (CogView2, section 3.1): masked pixels are generated again, others stay
unchanged. The counterpart of ``pipelines.inpainting`` without PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from cogview.data.images import to_rgb
from cogview.generation import editing
from cogview.generation.editing import CropRegion
from cogview.generation.holes import InfillRequest, Job, Order, fill_masked
from cogview.onnx.decoding import Engine, Request
from cogview.onnx.hierarchy import Settings, TwoStages
from cogview.onnx.sessions import Exported
from cogview.onnx.upscaler import image_of
from cogview.pipelines.base import ProgressParts
from cogview.sequences import CogLMFormat
from cogview.sequences.protocols import Prompt
from cogview.types import Ids, ProgressCallback, SamplingParams


def fill(
    engine: Engine,
    format: CogLMFormat,
    infills: Sequence[InfillRequest],
    mask: ArrayLike,
    params: SamplingParams,
    order: Order,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Ids]:
    """Generate the masked codes of every image; returns all codes (rows * columns,)."""

    def generate(jobs: list[Job], first: int, report: ProgressCallback | None) -> Iterator[tuple[int, Ids]]:
        requests = [Request(*job) for job in jobs]
        return engine.generate(requests, params, batch_size, report, first=first)

    return fill_masked(
        generate,
        _with_prefix,
        format,
        infills,
        mask,
        params.guidance_scale != 1,
        order,
        "paper",
        progress,
    )


def _with_prefix(prompt: Prompt, blocks: tuple[int, ...]) -> Prompt:
    """The first block has bidirectional attention; a second one consists of [BOI] alone."""
    return replace(prompt, prefix=blocks[0])


@dataclass(frozen=True)
class Editor:
    """A CogLM, and super-resolution for parts that are larger than its images, if the family has any.

    encode: returns the codes of an RGB image, resized to a square of the model's size.
    """

    engine: Engine
    format: CogLMFormat
    exported: Exported
    encode: Callable[[Image.Image], Ids]
    stages: TwoStages | None
    settings: Settings

    @property
    def size(self) -> int:
        """Side in pixels of the square image that the model reads."""
        image = self.exported.manifest.image
        return image.image_size * self.format.grid[0] // image.grid[0]

    def upper(self, region: CropRegion) -> TwoStages | None:
        """Super-resolution for a crop; None if the CogLM's images are large enough."""
        return None if max(region.shape) <= self.size else self.stages

    def run(
        self,
        original: Image.Image,
        region: CropRegion,
        codes: Ids,
        tokens: Sequence[int],
        negative: Ids,
        streams: Sequence[tuple[int, int]],
        params: SamplingParams,
        order: Order,
        feather: int,
        stages: TwoStages | None,
        batch_size: int | None,
        progress: ProgressCallback | None,
    ) -> Iterator[tuple[Image.Image, Ids]]:
        """Edit the image with each random stream; yields the results and their codes.

        Args:
            region: the crop that the model reads.
            codes: (rows * columns,), of the crop.
            tokens: of the caption, from 0.
            negative: ids that guidance moves away from.
            stages: super-resolution for the crop, if any (:meth:`upper`).
        """
        text, count = self.format.text_ids(tokens), len(streams)
        large = 0 if stages is None else stages.stages * stages.format.codes
        parts = ProgressParts(progress, count * (self.format.codes + large))
        infills = [InfillRequest(text, codes, *stream, negative) for stream in streams]
        grid, report = region.grid_mask(self.format.grid), parts.part(count * self.format.codes)
        results = fill(self.engine, self.format, infills, grid, params, order, batch_size, report)
        for filled, stream in zip(results, streams, strict=True):
            if stages is None:
                part = image_of(self.exported.decode(filled.reshape(self.format.grid)))
            else:
                part = self._upscale(original, region, filled, tokens, stream, stages, parts.part(large))
            part = part.resize(region.shape[::-1], Image.Resampling.BICUBIC)
            pasted = editing.paste(original, part, region, feather)
            is_full = region.shape == region.mask.shape
            yield pasted, filled if is_full else self.encode(to_rgb(pasted)[0])

    def _upscale(
        self,
        original: Image.Image,
        region: CropRegion,
        codes: Ids,
        tokens: Sequence[int],
        stream: tuple[int, int],
        stages: TwoStages,
        progress: ProgressCallback | None,
    ) -> Image.Image:
        """Upscale the crop; outside of the mask it keeps the codes of the original pixels."""
        grid, image = stages.format.grid, self.exported.manifest.image
        side = grid[0] * image.image_size // image.grid[0]
        crop = to_rgb(region.cut(original))[0].resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(crop).transpose(2, 0, 1), dtype=np.float32)
        known, mask = (
            self.exported.encode(pixels / np.float32(255))[1].ravel(),
            region.grid_mask(grid).ravel(),
        )
        text = list(tokens)[: stages.format.text_limit]
        large = stages.run(codes, text, *stream, self.settings, mask, known, progress)
        return image_of(self.exported.decode(large.reshape(grid)))
