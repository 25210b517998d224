"""Inpainting with a CogLM: part of an image, or random patches, are generated again from a prompt (CogView2,
section 3.1). Pixels outside the mask stay unchanged, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from cogview.checkpoints.components import Components
from cogview.data.images import to_rgb
from cogview.errors import CogViewError
from cogview.generation import editing
from cogview.generation.editing import Crop, CropRegion
from cogview.generation.engine import Engine
from cogview.generation.holes import InfillRequest, Order
from cogview.generation.infilling import fill
from cogview.pipelines.base import (
    MAX_IMAGES,
    AnyImage,
    GeneratedImage,
    ProgressParts,
    caption_for,
    check_count,
    check_positive,
    checked_seed,
    encode_caption,
    text_list,
)
from cogview.pipelines.edit_inputs import AnyMask, Box, mask_of, upright
from cogview.pipelines.super_resolution import ORDER, TwoStageSuperResolution
from cogview.sequences.coglm import CogLMFormat
from cogview.sequences.masks import PATCH, sample_mask
from cogview.tokenizers.loading import decode_image, encode_image, side_of
from cogview.types import Ids, ProgressCallback, SamplingParams


@dataclass(frozen=True, kw_only=True)
class VaryRequest:
    """Arguments shared by edits and variations (:meth:`cogview.pipelines.model.Pipeline.vary`); ``n`` is the
    number of candidates."""

    prompt: str
    n: int
    seed: int | None
    params: SamplingParams
    style: str | None
    negative_prompt: str | None
    first_stage_only: bool
    batch_size: int | None
    progress: ProgressCallback | None


@dataclass(frozen=True, kw_only=True)
class EditRequest(VaryRequest):
    """Arguments of :meth:`cogview.pipelines.model.Pipeline.edit`."""

    mask: AnyMask | None
    boxes: Box | Sequence[Box]
    order: Order
    crop: Crop
    feather: int


class Inpainting:
    """A family's CogLM, with super-resolution, if there is any, for parts larger than the CogLM's images."""

    def __init__(
        self,
        components: Components,
        format: CogLMFormat,
        load: Callable[[], Engine],
        super_resolution: TwoStageSuperResolution | None,
    ) -> None:
        self.components, self.format, self._load = components, format, load
        self.super_resolution = super_resolution

    @property
    def size(self) -> int:
        """Side in pixels of the square image that the model reads."""
        return image_size(self.components, self.format)

    def edit(self, image: AnyImage, request: EditRequest) -> Iterator[GeneratedImage]:
        """The edited images; all arguments are checked before the first is generated."""
        check_positive(n=request.n, batch_size=request.batch_size)
        check_count("images", request.n, MAX_IMAGES)
        original = upright(image)
        mask = mask_of(request.mask, request.boxes, original.size)
        text, negative = self._text(request.prompt, request.style), self._negative(request.negative_prompt)
        streams = _streams(request.n, request.seed)
        region = editing.crop_region(mask, request.crop, self.size)
        is_full = region.shape == mask.shape
        codes = self.image_codes(image) if is_full else self._encode(region.cut(to_rgb(original)[0]))
        infills = [InfillRequest(text, codes, *stream, negative) for stream in streams]
        upper = None if request.first_stage_only else self._upper(region.shape)
        large = 0 if upper is None else len(upper.stages) * upper.format.codes
        parts = ProgressParts(request.progress, request.n * (self.format.codes + large))
        grid, report = region.grid_mask(self.format.grid), parts.part(request.n * self.format.codes)
        filled = fill(
            self._load(),
            self.format,
            infills,
            grid,
            request.params,
            request.order,
            batch_size=request.batch_size,
            progress=report,
        )
        facts: dict[str, Any] = {"task": "edit", "order": request.order, "crop": request.crop}
        facts |= {"feather": request.feather, "box": list(region.box)}
        facts |= {} if upper is None else {"super_resolution": " and ".join(upper.stages)}
        facts |= {} if request.negative_prompt is None else {"negative_prompt": request.negative_prompt}
        for generated, stream in zip(filled, streams, strict=True):
            part = self._part(original, generated, region, request, stream, upper, parts)
            pasted = editing.paste(original, part, region, request.feather)
            if not is_full:
                generated = self._encode(to_rgb(pasted)[0])  # codes of the entire image, not of the crop
            yield self._image(pasted, generated, request, stream, facts)

    def vary(self, image: AnyImage, mask_ratio: float, request: VaryRequest) -> Iterator[GeneratedImage]:
        """Variations, each with its own random patches."""
        if not 0 < mask_ratio <= 1:
            raise CogViewError(f"share is {mask_ratio}; give a number above 0, up to 1", field="mask_ratio")
        check_positive(n=request.n, batch_size=request.batch_size)
        check_count("images", request.n, MAX_IMAGES)
        original = upright(image)
        text = self._text(request.prompt, request.style, empty=True)
        negative = self._negative(request.negative_prompt)
        codes, images = self.image_codes(image), list[GeneratedImage]()
        patch = max(1, min(PATCH, min(self.format.grid) // 3))
        upper = None if request.first_stage_only else self._upper((original.height, original.width))
        large = 0 if upper is None else len(upper.stages) * upper.format.codes
        parts = ProgressParts(request.progress, request.n * (self.format.codes + large))
        facts: dict[str, Any] = {"task": "vary", "share": mask_ratio}
        facts |= {} if request.negative_prompt is None else {"negative_prompt": request.negative_prompt}
        for stream in _streams(request.n, request.seed):
            mask = sample_mask(self.format.grid, np.random.default_rng(stream), mask_ratio, patch)
            infill, report = InfillRequest(text, codes, *stream, negative), parts.part(self.format.codes)
            [generated] = fill(self._load(), self.format, [infill], mask, request.params, progress=report)
            decoded = decode_image(self.components.image_tokenizer, generated, self.format.grid)
            images.append(self._image(decoded, generated, request, stream, facts))
        upscaled = images if upper is None else upper.upscale(images, ORDER, request.batch_size, parts)
        for result, small in zip(upscaled, images, strict=True):
            resized = result.image.resize(original.size, Image.Resampling.BICUBIC)
            yield replace(result, image=resized, codes=small.codes)

    def image_codes(self, image: AnyImage) -> Ids:
        """An image's codes (rows * columns,); those of a generated image are reused."""
        if isinstance(image, GeneratedImage) and len(image.codes) == self.format.codes:
            return image.codes
        return square_codes(self.components, self.format, image)

    def _upper(self, shape: tuple[int, int]) -> TwoStageSuperResolution | None:
        """Super-resolution for a part of (height, width) pixels; None if the CogLM's images are large
        enough."""
        return None if max(shape) <= self.size else self.super_resolution

    def _part(
        self,
        original: Image.Image,
        codes: Ids,
        region: CropRegion,
        request: VaryRequest,
        stream: tuple[int, int],
        upper: TwoStageSuperResolution | None,
        parts: ProgressParts,
    ) -> Image.Image:
        """Decode the generated part of the image, and upscale or resize it to the part's size."""
        if upper is None:
            part = decode_image(self.components.image_tokenizer, codes, self.format.grid)
        else:
            known, tokens = to_rgb(region.cut(original))[0], self._tokens(request.prompt, request.style)
            part = upper.inpaint(codes, known, region.grid_mask, tokens, stream, parts)
        height, width = region.shape
        return part.resize((width, height), Image.Resampling.BICUBIC)

    def _tokens(self, prompt: str, style: str | None) -> list[int]:
        caption = caption_for(self.components.bundle.config, prompt, style)
        return encode_caption(self.components, caption, self.format.text_limit)

    def _text(self, prompt: str, style: str | None, empty: bool = False) -> Ids:
        """Ids of a prompt; raises CogViewError if it is too long, or empty without ``empty``."""
        [prompt] = text_list(prompt)
        blank = empty and not prompt.strip() and style is None
        return self.format.text_ids(() if blank else self._tokens(prompt, style))

    def _negative(self, prompt: str | None) -> Ids:
        return self._text(prompt or "", None, empty=True)

    def _encode(self, image: Image.Image) -> Ids:
        """Codes of an RGB image, resized to a square of the model's size."""
        side = self.size
        return encode_image(
            self.components.image_tokenizer, image.resize((side, side), Image.Resampling.BILINEAR)
        )

    def _image(
        self,
        image: Image.Image,
        codes: Ids,
        request: VaryRequest,
        stream: tuple[int, int],
        facts: Mapping[str, Any],
    ) -> GeneratedImage:
        config, prompt, style = self.components.bundle.config, request.prompt, request.style
        return GeneratedImage(
            image=image,
            codes=codes,
            prompt=prompt,
            caption=caption_for(config, prompt, style) if prompt.strip() else "",
            seed=stream[0],
            index=stream[1],
            settings={**request.params.model_dump(), "style": style, **self.components.facts, **facts},
            model=config.name,
            model_hash=self.components.bundle.hash,
        )


def image_size(components: Components, format: CogLMFormat) -> int:
    """Side in pixels of the square image that a CogLM reads."""
    return side_of(components.image_tokenizer, format.grid[0])


def square_codes(components: Components, format: CogLMFormat, image: AnyImage) -> Ids:
    """An image's codes for a CogLM: composited over white and resized to a square."""
    side = image_size(components, format)
    square = to_rgb(upright(image))[0].resize((side, side), Image.Resampling.BILINEAR)
    return encode_image(components.image_tokenizer, square)


def _streams(n: int, seed: int | None) -> list[tuple[int, int]]:
    seed = checked_seed(seed)
    return [(seed, index) for index in range(n)]
