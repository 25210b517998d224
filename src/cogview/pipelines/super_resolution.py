"""Super-resolution: CogView's, window by window (section 3.1), and CogView2's in two stages (section 3.3).

Both read a low-resolution image as codes. Its pixels, if they are known, or else the decoded codes, serve as
a pixel prior. Images are files, Pillow images or results of ``generate``, whose codes and caption are used
directly.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from cogview.checkpoints.bundle import BASE, DIRECT, ITERATIVE, UPSCALING
from cogview.checkpoints.components import Components
from cogview.errors import CogViewError
from cogview.generation.hierarchical import Upscaler as Stage
from cogview.generation.hierarchical import direct_super_resolution, iterative_super_resolution
from cogview.generation.image_upscaling import Original, Request, Upscaler
from cogview.generation.local_parallel import find_order
from cogview.generation.pixel_prior import DECODED, PixelLikelihood, PixelPrior
from cogview.generation.two_stages import DIRECT as RELEASED_DIRECT
from cogview.generation.two_stages import top_k_of
from cogview.generation.windows import scale_of
from cogview.pipelines.base import (
    AnyImage,
    GeneratedImage,
    ImageCallback,
    ProgressParts,
    check_positive,
    checked_seed,
    encode_caption,
    image_facts,
    open_rgb,
    prompt_and_caption,
)
from cogview.pipelines.engines import make_engine
from cogview.sequences import DirectFormat, IterativeFormat, SequenceFormat, of_type
from cogview.tokenizers.loading import decode_image, encode_image, side_of
from cogview.types import DETAIL, Ids, ProgressCallback, SamplingParams

if TYPE_CHECKING:
    from cogview.pipelines.model import Pipeline

ORDER = "released"
BATCH_SIZE = 4  # images upscaled at a time, by default
QUEUED = 8  # generated images that are upscaled together


@dataclass(frozen=True)
class _Source:
    """An image to upscale, its prompt, caption and random stream, and its provenance entry."""

    original: Original
    prompt: str
    caption: str
    seed: int
    index: int
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class UpscaleRequest:
    """Arguments of :meth:`cogview.pipelines.model.Pipeline.upscale`."""

    times: int | None = None
    seed: int | None = None
    size: int | None = None
    faithful: bool = True
    detail: float = DETAIL
    order: str | None = None
    negative_prompt: str | None = None


class WindowedSuperResolution:
    """CogView's super-resolution model, for images of any size; loaded at first use."""

    def __init__(self, components: Components, format: SequenceFormat) -> None:
        scale_of(format)
        self.components, self.format = components, format

    @cached_property
    def upscaler(self) -> Upscaler:
        """The model with its engine and image tokenizer."""
        components = self.components
        rows = slice(0, components.bundle.config.vocabulary.image_codes)
        engine = make_engine(components, components.transformer(UPSCALING), rows)
        return Upscaler(engine, self.format, components.image_tokenizer)

    def run(
        self,
        images: Sequence[AnyImage],
        prompts: Sequence[str | None],
        params: SamplingParams,
        request: UpscaleRequest,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Iterator[GeneratedImage]:
        """Upscale images; all arguments are checked before the iterator is returned."""
        seed, size, faithful, detail = request.seed, request.size, request.faithful, request.detail
        negative_prompt, times = request.negative_prompt, 2 if request.times is None else request.times
        if request.order is not None:
            raise CogViewError("order needs two-stage super-resolution; leave it out", field="order")
        if not 0 <= detail <= 1:
            raise CogViewError(f"detail is {detail}; give a number from 0 to 1", field="detail")
        if not faithful and detail != DETAIL:
            raise CogViewError(
                "detail needs faithful=True; leave out detail or faithful=False", field="detail"
            )
        self.upscaler.stages(times)
        seed = seed if seed is None else checked_seed(seed)
        sources = [
            self._source(image, prompt, seed, times, size)
            for image, prompt in zip(images, prompts, strict=True)
        ]
        limit = self.format.text_limit
        negative = encode_caption(self.components, (negative_prompt or "").strip(), limit)
        requests = [
            Request(s.original, encode_caption(self.components, s.caption, limit), s.seed, s.index, negative)
            for s in sources
        ]
        facts = {"task": "upscale", "times": times, "size": size, "faithful": faithful, "detail": detail}
        facts |= {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        results = self.upscaler.run(requests, times, params, faithful, detail, batch_size, progress)
        settings = {**params.model_dump(), **self.components.facts, **facts}
        return (self._image(sources[n], codes, image, settings) for n, codes, image in results)

    def _image(
        self, source: _Source, codes: Ids, image: Image.Image, settings: dict[str, Any]
    ) -> GeneratedImage:
        return GeneratedImage(
            image=image,
            codes=codes.ravel(),
            prompt=source.prompt,
            caption=source.caption,
            seed=source.seed,
            index=source.index,
            settings={**settings, "source": source.facts},
            model=self.components.bundle.config.name,
            model_hash=self.components.bundle.hash,
        )

    def _source(
        self, item: AnyImage, prompt: str | None, seed: int | None, times: int, size: int | None
    ) -> _Source:
        """Encode an input image and collect its prompt and provenance."""
        if isinstance(item, GeneratedImage):
            grid = self.components.bundle.role(BASE).sequences.grid
            if len(item.codes) != grid[0] * grid[1] or size is not None:
                return self._source(item.image, item.caption if prompt is None else prompt, seed, times, size)
            facts = {"seed": item.seed, "index": item.index, "settings": item.settings}
            texts = prompt_and_caption(self.components.bundle.config, item, prompt)
            original = Original(item.codes.reshape(grid))
            return _Source(original, *texts, item.seed if seed is None else seed, item.index, facts)
        image, name = open_rgb(item)
        try:
            original = self.upscaler.read(image, times, size)
        except CogViewError as error:
            raise CogViewError(f"{name}: {error}") from None
        texts = prompt_and_caption(self.components.bundle.config, item, prompt)
        return _Source(original, *texts, checked_seed(seed), 0, image_facts(image))


class TwoStageSuperResolution:
    """CogView2's super-resolution: the direct model generates all codes of the large image in one forward,
    then the optional iterative model generates most of them again. Both are loaded at first use."""

    def __init__(
        self,
        components: Components,
        direct: DirectFormat,
        iterative: IterativeFormat | None,
        encode: Callable[[AnyImage], Ids],
    ) -> None:
        self.components, self.format, self.iterative_format, self._encode = (
            components,
            direct,
            iterative,
            encode,
        )

    @classmethod
    def of(cls, components: Components, encode: Callable[[AnyImage], Ids]) -> TwoStageSuperResolution:
        """Super-resolution of a family with a direct model; ``encode`` returns low-resolution codes."""
        roles = components.bundle.config.roles
        direct = of_type(roles[DIRECT].sequences, DirectFormat)
        iterative = of_type(roles[ITERATIVE].sequences, IterativeFormat) if ITERATIVE in roles else None
        assert direct is not None and (iterative is not None or ITERATIVE not in roles)
        return cls(components, direct, iterative, encode)

    @property
    def stages(self) -> tuple[str, ...]:
        """The roles of the models, in order."""
        return (DIRECT,) if self.iterative_format is None else (DIRECT, ITERATIVE)

    @property
    def scale(self) -> int:
        """The scale factor of the sides."""
        return self.format.grid[0] // self.format.small[0]

    @cached_property
    def direct(self) -> Stage[DirectFormat]:
        """The direct model."""
        components = self.components
        model = components.transformer(DIRECT)
        return Stage(model, self.format, components.clusters, components.precision)

    @cached_property
    def iterative(self) -> Stage[IterativeFormat] | None:
        """The iterative model; None if the family has none."""
        if self.iterative_format is None:
            return None
        components = self.components
        model = components.transformer(ITERATIVE)
        return Stage(model, self.iterative_format, components.clusters, components.precision)

    def check_order(self, order: str | None) -> None:
        """Raise CogViewError for an unknown order of the iterative stage."""
        find_order(order or ORDER)

    def run(
        self,
        images: Sequence[AnyImage],
        prompts: Sequence[str | None],
        params: SamplingParams,
        request: UpscaleRequest,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> Iterator[GeneratedImage]:
        """Upscale images; captions are truncated to the models' limit. Both stages use their own sampling
        parameters, not ``params``."""
        if request.times not in (None, self.scale):
            raise CogViewError(
                f"times is {request.times}; this model upscales {self.scale} times", field="times"
            )
        if replace(request, times=None, seed=None, order=None) != UpscaleRequest():
            name, extra = self.components.bundle.config.name, "size, faithful, detail and negative_prompt"
            raise CogViewError(f"the model {name} upscales in two stages; leave out {extra}")
        self.check_order(request.order)
        small = [
            self._small(item, prompt, request.seed) for item, prompt in zip(images, prompts, strict=True)
        ]
        parts = ProgressParts(progress, len(small) * self.format.codes * len(self.stages))
        return self.upscale(small, request.order or ORDER, batch_size, parts)

    def _small(self, item: AnyImage, prompt: str | None, seed: int | None) -> GeneratedImage:
        """The image with low-resolution codes, on the grid that the direct model reads."""
        bundle, small_codes = self.components.bundle, self.format.small[0] * self.format.small[1]
        texts = prompt_and_caption(bundle.config, item, prompt)
        if isinstance(item, GeneratedImage) and len(item.codes) == small_codes:
            seed = item.seed if seed is None else checked_seed(seed)
            return replace(item, seed=seed, prompt=texts[0], caption=texts[1])
        image = item.image if isinstance(item, GeneratedImage) else open_rgb(item)[0]
        settings = {**self.components.facts, "task": "upscale", "source": image_facts(image)}
        codes = self._encode(item)
        return GeneratedImage(
            image, codes, *texts, checked_seed(seed), 0, settings, bundle.config.name, bundle.hash
        )

    def upscale(
        self, images: Iterable[GeneratedImage], order: str, batch_size: int | None, parts: ProgressParts
    ) -> Iterator[GeneratedImage]:
        """Upscale images with low-resolution codes; each stage of each batch is a part of the progress."""
        check_positive(batch_size=batch_size)
        for _, same_style in itertools.groupby(images, _style):
            while batch := list(itertools.islice(same_style, batch_size or BATCH_SIZE)):
                yield from self._upscale_batch(batch, order, parts)

    def _upscale_batch(
        self, images: Sequence[GeneratedImage], order: str, parts: ProgressParts
    ) -> Iterator[GeneratedImage]:
        """Upscale one batch of images of the same style."""
        tokenizer = self.components.text_tokenizer
        texts = [tokenizer.encode(image.caption)[: self.format.text_limit] for image in images]
        small, size = np.stack([image.codes for image in images]), len(images) * self.format.codes
        shared: dict[str, Any] = {
            "pairs": [(image.seed, image.index) for image in images],
            "batch_size": len(images),
            "likelihoods": self.prior([image.codes for image in images]),
        }
        codes = direct_super_resolution(
            self.direct,
            texts,
            small,
            settings=self.direct_params(_style(images[0])),
            progress=parts.part(size),
            **shared,
        )
        facts: dict[str, Any] = {"super_resolution": "direct"}
        if self.iterative is not None:
            codes = iterative_super_resolution(
                self.iterative,
                texts,
                codes,
                order=order,
                settings=self.iterative_params(order),
                progress=parts.part(size),
                **shared,
            )
            facts = {"super_resolution": "direct and iterative", "order": order}
        for image, large in zip(images, codes, strict=True):
            decoded = decode_image(self.components.image_tokenizer, large, self.format.grid)
            yield replace(image, image=decoded, codes=large, settings={**image.settings, **facts})

    def inpaint(
        self,
        codes: Ids,
        known: Image.Image,
        region: Callable[[tuple[int, int]], np.ndarray[Any, np.dtype[np.bool_]]],
        tokens: Sequence[int],
        stream: tuple[int, int],
        parts: ProgressParts,
    ) -> Image.Image:
        """Upscale low-resolution ``codes`` to an image that equals ``known`` outside of ``region``.

        The direct model generates all large codes; outside the region they are replaced by the known image's
        codes. The iterative model then generates again only inside the region, conditioned on the codes
        around it. region: maps a grid to bool (rows, columns).
        """
        grid, tokenizer = self.format.grid, self.components.image_tokenizer
        side = side_of(tokenizer, grid[0])
        square = known.resize((side, side), Image.Resampling.BILINEAR)
        inside, text = region(grid).ravel(), [list(tokens)[: self.format.text_limit]]
        shared: dict[str, Any] = {"pairs": [stream], "likelihoods": self.prior([codes])}
        generated = direct_super_resolution(
            self.direct,
            text,
            codes[None],
            settings=self.direct_params(),
            progress=parts.part(self.format.codes),
            **shared,
        )
        large = np.where(inside, generated, encode_image(tokenizer, square))
        if self.iterative is not None:
            large = iterative_super_resolution(
                self.iterative,
                text,
                large,
                settings=self.iterative_params(),
                region=inside[None],
                progress=parts.part(self.format.codes),
                **shared,
            )
        return decode_image(tokenizer, large[0], grid)

    def direct_params(self, style: str | None = None) -> SamplingParams:
        """Sampling parameters of the direct stage; default: those of the release, if there are clusters."""
        default = RELEASED_DIRECT if self.direct.clusters is not None else None
        return self.components.bundle.config.sampling(DIRECT, None, style, default)

    def iterative_params(self, order: str = ORDER) -> list[SamplingParams]:
        """Sampling parameters of each turn of the iterative stage; default: the release's top-k."""
        config, turns = self.components.bundle.config, find_order(order).turns
        released = [SamplingParams(top_k=top_k_of(turn + 1, turns)) for turn in range(turns)]
        return [config.sampling(ITERATIVE, default=params) for params in released]

    @cached_property
    def pixel_prior(self) -> PixelPrior | None:
        """The pixel prior; None if the image tokenizer has several scales."""
        return PixelPrior.of(self.components.image_tokenizer)

    @torch.inference_mode()
    def prior(self, small: Sequence[Ids]) -> list[PixelLikelihood] | None:
        """Log-likelihoods of the large images' codes, given low-resolution codes (rows * columns,) each.

        None if the image tokenizer has several scales.
        """
        if self.pixel_prior is None:
            return None
        codes = torch.from_numpy(np.stack(small)).to(self.components.device)
        decoded = self.components.image_tokenizer.decode(codes, self.format.small).clamp(0, 1)
        return [self.pixel_prior.likelihood(pixels, self.scale, DECODED) for pixels in decoded]


def _style(image: GeneratedImage) -> str | None:
    """The style an image was generated in, from its settings."""
    style = image.settings.get("style")
    return style if isinstance(style, str) else None


@dataclass
class UpscaleQueue:
    """Collects generated images, upscales ``QUEUED`` at a time and passes the results to ``keep``."""

    pipeline: Pipeline
    times: int
    batch_size: int | None
    parts: ProgressParts
    keep: ImageCallback
    waiting: list[GeneratedImage] = field(default_factory=list)

    def check(self, texts: list[str], style: str | None) -> None:
        """Raise CogViewError for a prompt that is too long to upscale; call it before generating."""
        limit = self.pipeline.super_resolution.format.text_limit
        for request in self.pipeline.text_to_image.requests(texts, style=style):
            encode_caption(self.pipeline.components, request.caption, limit)

    def add(self, image: GeneratedImage) -> None:
        """Add an image; a full queue is upscaled."""
        self.waiting.append(image)
        if len(self.waiting) == QUEUED:
            self.finish()

    def finish(self) -> None:
        """Upscale the images in the queue."""
        images, self.waiting = self.waiting, []
        if images:
            codes = self.pipeline.text_to_image.format.codes
            progress = self.parts.part(len(images) * codes * self.times**2)
            self.pipeline.upscale(
                images, times=self.times, batch_size=self.batch_size, progress=progress, callback=self.keep
            )
