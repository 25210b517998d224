"""Inpainting by a CogLM: part of an image is generated again by a sentence, or patches at random (CogView2,
section 3.1). Pixels outside the mask stay as they are, bit for bit."""

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
from cogview.generation.editing import Crop, Frame
from cogview.generation.engine import Engine
from cogview.generation.holes import Hole, Order
from cogview.generation.infilling import fill
from cogview.pipelines.base import (
    MOST_IMAGES,
    AnyImage,
    GeneratedImage,
    ProgressParts,
    at_least_one,
    caption_for,
    checked_seed,
    encode_caption,
    not_too_many,
    text_list,
)
from cogview.pipelines.edit_inputs import AnyMask, Box, mask_of, upright
from cogview.pipelines.super_resolution import ORDER, TwoStageSuperResolution
from cogview.sequences.coglm import CogLMFormat
from cogview.sequences.masks import PATCH, sample_mask
from cogview.tokenizers.loading import decode_image, encode_image
from cogview.types import Ids, ProgressCallback, SamplingParams


@dataclass(frozen=True, kw_only=True)
class VaryRequest:
    """What edits and variations share (:meth:`cogview.pipelines.model.Pipeline.vary`); ``n`` counts
    candidates."""

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
    """What is edited, and how (:meth:`cogview.pipelines.model.Pipeline.edit`)."""

    mask: AnyMask | None
    boxes: Box | Sequence[Box]
    order: Order
    crop: Crop
    feather: int


class Inpainting:
    """A family's CogLM, with super-resolution for what is larger than the CogLM's images, if there is any."""

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
        """Pixels of the square that the model sees."""
        return image_size(self.components, self.format)

    def edit(self, image: AnyImage, asked: EditRequest) -> Iterator[GeneratedImage]:
        """The edited images; everything is checked before the first is generated."""
        at_least_one(n=asked.n, batch_size=asked.batch_size)
        not_too_many("images", asked.n, MOST_IMAGES)
        original = upright(image)
        hole = mask_of(asked.mask, asked.boxes, original.size)
        text, negative = self._text(asked.prompt, asked.style), self._negative(asked.negative_prompt)
        streams = _streams(asked.n, asked.seed)
        area = editing.frame(hole, asked.crop, self.size)
        whole = area.shape == hole.shape
        codes = self.image_codes(image) if whole else self._encode(area.cut(to_rgb(original)[0]))
        holes = [Hole(text, codes, *stream, negative) for stream in streams]
        upper = None if asked.first_stage_only else self._upper(area.shape)
        large = 0 if upper is None else len(upper.stages) * upper.format.codes
        parts = ProgressParts(asked.progress, asked.n * (self.format.codes + large))
        grid, report = area.grid_mask(self.format.grid), parts.part(asked.n * self.format.codes)
        filled = fill(
            self._load(),
            self.format,
            holes,
            grid,
            asked.params,
            asked.order,
            batch_size=asked.batch_size,
            progress=report,
        )
        facts: dict[str, Any] = {"task": "edit", "order": asked.order, "crop": asked.crop}
        facts |= {"feather": asked.feather, "box": list(area.box)}
        facts |= {} if upper is None else {"super_resolution": " and ".join(upper.stages)}
        facts |= {} if asked.negative_prompt is None else {"negative_prompt": asked.negative_prompt}
        for found, stream in zip(filled, streams, strict=True):
            part = self._part(original, found, area, asked, stream, upper, parts)
            pasted = editing.paste(original, part, area, asked.feather)
            if not whole:
                found = self._encode(to_rgb(pasted)[0])  # of the whole, as of every image
            yield self._image(pasted, found, asked, stream, facts)

    def vary(self, image: AnyImage, mask_ratio: float, asked: VaryRequest) -> Iterator[GeneratedImage]:
        """The variations, each with patches of its own."""
        if not 0 < mask_ratio <= 1:
            raise CogViewError(f"share is {mask_ratio}; it lies between 0 and 1", field="mask_ratio")
        at_least_one(n=asked.n, batch_size=asked.batch_size)
        not_too_many("images", asked.n, MOST_IMAGES)
        original = upright(image)
        text = self._text(asked.prompt, asked.style, empty=True)
        negative = self._negative(asked.negative_prompt)
        codes, made = self.image_codes(image), list[GeneratedImage]()
        patch = max(1, min(PATCH, min(self.format.grid) // 3))
        upper = None if asked.first_stage_only else self._upper((original.height, original.width))
        large = 0 if upper is None else len(upper.stages) * upper.format.codes
        parts = ProgressParts(asked.progress, asked.n * (self.format.codes + large))
        facts: dict[str, Any] = {"task": "vary", "share": mask_ratio}
        facts |= {} if asked.negative_prompt is None else {"negative_prompt": asked.negative_prompt}
        for stream in _streams(asked.n, asked.seed):
            mask = sample_mask(self.format.grid, np.random.default_rng(stream), mask_ratio, patch)
            hole, report = Hole(text, codes, *stream, negative), parts.part(self.format.codes)
            [found] = fill(self._load(), self.format, [hole], mask, asked.params, progress=report)
            decoded = decode_image(self.components.image_tokenizer, found, self.format.grid)
            made.append(self._image(decoded, found, asked, stream, facts))
        larger = made if upper is None else upper.enlarge(made, ORDER, asked.batch_size, parts)
        for big, small in zip(larger, made, strict=True):
            resized = big.image.resize(original.size, Image.Resampling.BICUBIC)
            yield replace(big, image=resized, codes=small.codes)

    def image_codes(self, image: AnyImage) -> Ids:
        """An image's codes (rows * columns,); a generated one has them already."""
        if isinstance(image, GeneratedImage) and len(image.codes) == self.format.codes:
            return image.codes
        return square_codes(self.components, self.format, image)

    def _upper(self, shape: tuple[int, int]) -> TwoStageSuperResolution | None:
        """What enlarges a part of (height, width) pixels, where it is larger than what the CogLM
        generates."""
        return None if max(shape) <= self.size else self.super_resolution

    def _part(
        self,
        original: Image.Image,
        codes: Ids,
        area: Frame,
        asked: VaryRequest,
        stream: tuple[int, int],
        upper: TwoStageSuperResolution | None,
        parts: ProgressParts,
    ) -> Image.Image:
        """The part of the image that was generated, at the part's size."""
        if upper is None:
            part = decode_image(self.components.image_tokenizer, codes, self.format.grid)
        else:
            known, tokens = to_rgb(area.cut(original))[0], self._tokens(asked.prompt, asked.style)
            part = upper.inpaint(codes, known, area.grid_mask, tokens, stream, parts)
        height, width = area.shape
        return part.resize((width, height), Image.Resampling.BICUBIC)

    def _tokens(self, prompt: str, style: str | None) -> list[int]:
        caption = caption_for(self.components.bundle.config, prompt, style)
        return encode_caption(self.components, caption, self.format.text_limit)

    def _text(self, prompt: str, style: str | None, empty: bool = False) -> Ids:
        """Ids of a prompt; CogViewError for one too long, and for an empty one unless it may be."""
        [prompt] = text_list(prompt)
        blank = empty and not prompt.strip() and style is None
        return self.format.text_ids(() if blank else self._tokens(prompt, style))

    def _negative(self, prompt: str | None) -> Ids:
        return self._text(prompt or "", None, empty=True)

    def _encode(self, image: Image.Image) -> Ids:
        """Codes of an RGB image made a square of the model's size."""
        side = self.size
        return encode_image(
            self.components.image_tokenizer, image.resize((side, side), Image.Resampling.BILINEAR)
        )

    def _image(
        self,
        image: Image.Image,
        codes: Ids,
        asked: VaryRequest,
        stream: tuple[int, int],
        facts: Mapping[str, Any],
    ) -> GeneratedImage:
        config, prompt, style = self.components.bundle.config, asked.prompt, asked.style
        return GeneratedImage(
            image=image,
            codes=codes,
            prompt=prompt,
            caption=caption_for(config, prompt, style) if prompt.strip() else "",
            seed=stream[0],
            index=stream[1],
            settings={**asked.params.model_dump(), "style": style, **self.components.facts, **facts},
            model=config.name,
            model_hash=self.components.bundle.hash,
        )


def image_size(components: Components, format: CogLMFormat) -> int:
    """Pixels of the square that a CogLM sees."""
    tokenizer = components.image_tokenizer
    return tokenizer.image_size * format.grid[0] // tokenizer.grid()[0]


def square_codes(components: Components, format: CogLMFormat, image: AnyImage) -> Ids:
    """An image's codes for a CogLM: over white, as a square."""
    side = image_size(components, format)
    square = to_rgb(upright(image))[0].resize((side, side), Image.Resampling.BILINEAR)
    return encode_image(components.image_tokenizer, square)


def _streams(n: int, seed: int | None) -> list[tuple[int, int]]:
    seed = checked_seed(seed)
    return [(seed, index) for index in range(n)]
