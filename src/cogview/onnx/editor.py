"""Editing with an exported CogLM (CogView2, section 3.1): what is masked is generated again, all other pixels
stay as they are. What ``pipelines.inpainting`` does with PyTorch."""

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
    form: CogLMFormat,
    holes: Sequence[InfillRequest],
    mask: ArrayLike,
    params: SamplingParams,
    order: Order,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> list[Ids]:
    """The codes (rows * columns,) of every image, the masked ones generated."""

    def generate(jobs: list[Job], first: int, report: ProgressCallback | None) -> Iterator[tuple[int, Ids]]:
        requests = [Request(*job) for job in jobs]
        return engine.generate(requests, params, batch_size, report, first=first)

    return fill_masked(
        generate, _seen, form, holes, mask, params.guidance_scale != 1, order, "paper", progress
    )


def _seen(prompt: Prompt, blocks: tuple[int, ...]) -> Prompt:
    """The first block sees itself both ways; a second one is [BOI] alone."""
    return replace(prompt, prefix=blocks[0])


@dataclass(frozen=True)
class Editor:
    """A CogLM, and super-resolution for parts that are larger than its images, if the family has any.

    encode: codes of an RGB image made a square of the model's size.
    """

    engine: Engine
    form: CogLMFormat
    exported: Exported
    encode: Callable[[Image.Image], Ids]
    stages: TwoStages | None
    settings: Settings

    @property
    def size(self) -> int:
        """Pixels of the square that the model sees."""
        image = self.exported.manifest.image
        return image.image_size * self.form.grid[0] // image.grid[0]

    def upper(self, area: CropRegion) -> TwoStages | None:
        """What enlarges a part that is larger than what the CogLM generates."""
        return None if max(area.shape) <= self.size else self.stages

    def run(
        self,
        original: Image.Image,
        area: CropRegion,
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
        """The image edited with each random stream, and its codes.

        Args:
            area: the part that the model sees; codes: (rows * columns,), of it.
            tokens: of the caption, from 0; negative: ids that guidance moves away from.
            stages: what enlarges the part, if anything (:meth:`upper`).
        """
        text, count = self.form.text_ids(tokens), len(streams)
        large = 0 if stages is None else stages.stages * stages.form.codes
        parts = ProgressParts(progress, count * (self.form.codes + large))
        holes = [InfillRequest(text, codes, *stream, negative) for stream in streams]
        grid, report = area.grid_mask(self.form.grid), parts.part(count * self.form.codes)
        found = fill(self.engine, self.form, holes, grid, params, order, batch_size, report)
        for own, stream in zip(found, streams, strict=True):
            if stages is None:
                part = image_of(self.exported.decode(own.reshape(self.form.grid)))
            else:
                part = self._larger(original, area, own, tokens, stream, stages, parts.part(large))
            part = part.resize(area.shape[::-1], Image.Resampling.BICUBIC)
            pasted = editing.paste(original, part, area, feather)
            whole = area.shape == area.mask.shape
            yield pasted, own if whole else self.encode(to_rgb(pasted)[0])

    def _larger(
        self,
        original: Image.Image,
        area: CropRegion,
        codes: Ids,
        tokens: Sequence[int],
        stream: tuple[int, int],
        stages: TwoStages,
        progress: ProgressCallback | None,
    ) -> Image.Image:
        """The part enlarged; outside of the mask it has the codes of the image's own pixels."""
        grid, image = stages.form.grid, self.exported.manifest.image
        side = grid[0] * image.image_size // image.grid[0]
        shown = to_rgb(area.cut(original))[0].resize((side, side), Image.Resampling.BILINEAR)
        pixels = np.ascontiguousarray(np.asarray(shown).transpose(2, 0, 1), dtype=np.float32)
        known, region = (
            self.exported.encode(pixels / np.float32(255))[1].ravel(),
            area.grid_mask(grid).ravel(),
        )
        text = list(tokens)[: stages.form.text_limit]
        large = stages.run(codes, text, *stream, self.settings, region, known, progress)
        return image_of(self.exported.decode(large.reshape(grid)))
