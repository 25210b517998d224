"""A family's tasks with ONNX Runtime: generate, edit, caption, score, rerank, upscale. Does not import
PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.checkpoints.bundle import BASE, CAPTION, DIRECT, ITERATIVE, UPSCALING, FamilyConfig
from cogview.data.images import RESAMPLE, square, to_rgb
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.generation import editing
from cogview.generation.editing import Crop
from cogview.generation.holes import Order
from cogview.generation.languages import language as language_of
from cogview.onnx.decoding import Engine, Request, StepCallback
from cogview.onnx.editor import Editor
from cogview.onnx.hierarchy import TwoStages
from cogview.onnx.manifest import Task
from cogview.onnx.sessions import Exported
from cogview.onnx.texts import Texts
from cogview.onnx.upscaler import Original, Upscaler, image_of
from cogview.pipelines.base import (
    MAX_CAPTIONS,
    MAX_IMAGES,
    AnyImage,
    Caption,
    GeneratedImage,
    ProgressParts,
    Ranked,
    caption_for,
    check_captions,
    check_count,
    check_first,
    check_positive,
    checked_seed,
    encode_caption,
    image_facts,
    image_list,
    open_rgb,
    prompt_and_caption,
    text_for_each,
    text_list,
)
from cogview.pipelines.edit_inputs import AnyMask, Box, mask_of, upright
from cogview.sequences import CogLMFormat, DirectFormat, IterativeFormat, SequenceFormat, of_type
from cogview.sequences.protocols import CaptionFormat, ImageFormat, check_text
from cogview.types import (
    BEAMS,
    DETAIL,
    FEATHER,
    Decoding,
    Ids,
    ProgressCallback,
    SamplingOptions,
    SamplingParams,
)


class OnnxModel:
    """A family that was exported by ``cogview export onnx``.

    Args:
        folder: the exported folder, with ``manifest.json``.
        threads: default: what the container and other programs leave.
        decoding: as for :meth:`cogview.pipelines.model.Pipeline.from_pretrained`; the tokens are the same.

    Raises:
        CogViewError: the folder is not an exported model, or it is incomplete.
    """

    def __init__(self, folder: Path | str, threads: int | None = None, decoding: Decoding = "auto") -> None:
        check_positive(threads=threads)
        if decoding not in get_args(Decoding):
            known = ", ".join(get_args(Decoding))
            raise CogViewError(f"unknown decoding {decoding!r}; use one of {known}", field="decoding")
        self.exported, self.decoding = Exported(folder, threads), decoding

    @property
    def family(self) -> FamilyConfig:
        """Vocabulary, sequence formats, styles and sampling defaults."""
        return self.exported.manifest.family

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the folder has graphs for."""
        return self.exported.manifest.tasks

    # ---------------------------------------------------------------------------------------------- parts

    def _require(self, task: Task) -> None:
        if task not in self.tasks:
            supported = ", ".join(self.tasks)
            raise CogViewError(
                f"{self.exported.folder} has no graphs for {task}; it supports {supported}",
                field="model",
            )

    def _format(self, role: str) -> Any:
        return self.family.roles[role].sequences

    @cached_property
    def _base(self) -> Engine:
        return Engine(self.exported.transformer(BASE), "image", self.exported.clusters, self.decoding)

    @cached_property
    def _coglm(self) -> tuple[Engine, CogLMFormat]:
        """The engine of the CogLM, and its sequence format."""
        role = self.family.coglm
        format = None if role is None else of_type(self._format(role), CogLMFormat)
        assert role is not None and format is not None
        session = self.exported.transformer(role)
        return Engine(session, "image", self.exported.clusters, self.decoding), format

    @cached_property
    def _texts(self) -> Texts:
        """The caption model: a separate role, or the text head of a CogLM."""
        role = CAPTION if CAPTION in self.exported.manifest.transformers else self.family.coglm
        assert role is not None
        session = self.exported.transformer(role)
        format: CaptionFormat = self._format(role)
        return Texts(Engine(session, "text", None, self.decoding), format, self.exported.text_tokenizer)

    @cached_property
    def _upscaler(self) -> Upscaler:
        format = of_type(self._format(UPSCALING), SequenceFormat)
        assert format is not None
        session = self.exported.transformer(UPSCALING)
        return Upscaler(Engine(session, "image", None, self.decoding), format, self.exported)

    @cached_property
    def _stages(self) -> TwoStages | None:
        """Two-stage super-resolution; None if the family has none."""
        roles, open_role = self.family.roles, self.exported.transformer
        direct = of_type(roles[DIRECT].sequences, DirectFormat) if DIRECT in roles else None
        if direct is None:
            return None
        second = of_type(roles[ITERATIVE].sequences, IterativeFormat) if ITERATIVE in roles else None
        session = None if second is None else open_role(ITERATIVE)
        return TwoStages(self.exported, open_role(DIRECT), direct, session, second)

    @property
    def upscales(self) -> int:
        """The default scale factor of the sides."""
        return 2 if self._stages is None or UPSCALING in self.family.roles else self._stages.scale

    def _stage_params(
        self, style: str | None = None
    ) -> Callable[[str, SamplingParams | None], SamplingParams]:
        """Sampling parameters of the super-resolution stages, for images of a style."""
        return lambda stage, default: self.family.sampling(stage, None, style, default)

    # ------------------------------------------------------------------------------------------- generate

    def generate(
        self,
        prompt: str | Sequence[str],
        n: int = 1,
        seed: int | None = None,
        *,
        style: str | None = None,
        negative_prompt: str | None = None,
        first: int = 0,
        best_of: int = 1,
        first_stage_only: bool = False,
        params: SamplingParams | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        step_callback: StepCallback | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Generate ``n`` images for each prompt, in order; the same as with
        ``cogview.from_pretrained(...).generate`` and the same seed.

        Args:
            first: index of the first image.
            best_of: generate this many candidates per image and keep the ``n`` of a prompt with the lowest
                caption loss.
            first_stage_only: return the low-resolution images of a family with super-resolution stages.
            step_callback: called after each token with the numbers of the images in the batch and their codes
                so far (b, codes). An exception in it ends the generation.
        """
        self._require("generate")
        texts, seed = text_list(prompt), checked_seed(seed)
        check_positive(n=n, best_of=best_of, batch_size=batch_size)
        check_first(first, n * best_of)
        check_count("images", len(texts) * n * best_of, MAX_IMAGES)
        if best_of > 1:
            self._require("score")
        resolved = self._params("generate", params, style, negative_prompt, sampling)
        format: ImageFormat = self._format(BASE)
        captions = [caption_for(self.family, text, style) for text in texts]
        if first_stage_only and not self.family.two_stage:
            raise CogViewError(f"{self.family.name} generates in one step; leave out first_stage_only")
        stages = self._stages if self.family.two_stage and not first_stage_only else None
        if stages is not None:
            check_captions(self.exported, captions, stages.format.text_limit)
        negative = (negative_prompt or "").strip()
        limit = format.text_limit
        prompts = {
            text: format.image_prompt(encode_caption(self.exported, text, limit))
            for text in dict.fromkeys([*captions, negative])
        }
        numbers = range(first, first + n * best_of)
        requests = [
            Request(prompts[text], seed, index, prompts[negative]) for text in captions for index in numbers
        ]
        small = len(requests) * format.codes
        large = 0 if stages is None else len(texts) * n * stages.format.codes * stages.stages
        parts = ProgressParts(progress, small + large)
        facts = {**resolved.model_dump(), **self._facts, "style": style}
        facts |= {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        images = []
        for number, codes in self._base.generate(
            requests, resolved, batch_size, parts.part(small), step_callback=step_callback
        ):
            text, index = divmod(number, len(numbers))
            decoded = image_of(self.exported.decode(codes.reshape(format.grid)))
            images.append(
                self._image(decoded, codes, texts[text], captions[text], seed, first + index, facts)
            )
        if best_of > 1:
            groups = [images[at : at + n * best_of] for at in range(0, len(images), n * best_of)]
            images = [image for group in groups for image in self._best(group, n)]
        if stages is None:
            return images
        return [self._upscale_in_stages(image, stages, style, parts) for image in images]

    def _upscale_in_stages(
        self, image: GeneratedImage, stages: TwoStages, style: str | None, parts: ProgressParts
    ) -> GeneratedImage:
        """Upscale an image with low-resolution codes."""
        text = self.exported.text_tokenizer.encode(image.caption)[: stages.format.text_limit]
        settings, report = self._stage_params(style), parts.part(stages.stages * stages.format.codes)
        codes = stages.run(image.codes, text, image.seed, image.index, settings, progress=report)
        decoded = image_of(self.exported.decode(codes.reshape(stages.format.grid)))
        return replace(image, image=decoded, codes=codes, settings={**image.settings, **stages.facts})

    def _best(self, images: Sequence[GeneratedImage], keep: int) -> list[GeneratedImage]:
        """The ``keep`` images of one prompt with the lowest caption loss, the best first."""
        losses = self.score(list(images), images[0].caption)[:, 0]
        best = []
        for rank, number in enumerate(np.argsort(losses, kind="stable")[:keep].tolist()):
            facts = {"of": len(images), "rank": rank, "caption_loss": round(float(losses[number]), 5)}
            settings = {**images[number].settings, "best_of": facts}
            best.append(replace(images[number], settings=settings))
        return best

    def _params(
        self, task: str, params: SamplingParams | None, style: str | None, negative: str | None, keywords: Any
    ) -> SamplingParams:
        """Complete sampling parameters of a call."""
        call = SamplingParams.given(**keywords)
        resolved = self.family.sampling(task, call if params is None else call.over_given(params), style)
        if negative is not None and resolved.guidance_scale == 1:
            raise CogViewError(
                "negative_prompt needs guidance; give a guidance_scale other than 1", field="negative_prompt"
            )
        return resolved

    @property
    def _facts(self) -> dict[str, Any]:
        """The inference settings; part of an image's provenance."""
        runtime, weights = self.exported.version, self.exported.manifest.weights
        facts = {"precision": weights, "decoding": self.decoding, "runtime": runtime}
        lora = self.exported.manifest.lora
        return facts | ({} if lora is None else {"lora": lora})

    def _image(
        self,
        image: Image.Image,
        codes: Ids,
        prompt: str,
        caption: str,
        seed: int,
        index: int,
        settings: dict[str, Any],
    ) -> GeneratedImage:
        name, hash = self.family.name, self.exported.manifest.model_hash
        return GeneratedImage(image, codes, prompt, caption, seed, index, settings, name, hash)

    # ---------------------------------------------------------------------------------- captions and scores

    def codes_of(self, image: AnyImage) -> Ids:
        """An image's codes (rows * columns,) for the caption model; those of a generated image are reused."""
        if isinstance(image, GeneratedImage) and len(image.codes) == self._texts.format.codes:
            return image.codes
        return self._encode(image.image if isinstance(image, GeneratedImage) else open_rgb(image)[0])

    def _encode(self, image: Image.Image) -> Ids:
        """Codes (rows * columns,) of an RGB image, resized to the square that the model reads."""
        fitting = self.exported.manifest.fitting
        assert fitting is not None
        if fitting.crop:
            pixels = square(image, Preprocessing(size=fitting.size, resample=fitting.resample))
        else:
            pixels = np.asarray(image.resize((fitting.size, fitting.size), RESAMPLE[fitting.resample]))
        scaled = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
        return self.exported.encode(scaled)[1].ravel()

    def caption(
        self,
        images: AnyImage | Sequence[AnyImage],
        n: int = 1,
        language: str | None = None,
        *,
        beams: int | None = None,
        seed: int | None = None,
        params: SamplingParams | None = None,
        max_length: int | None = None,
    ) -> list[list[Caption]]:
        """Generate ``n`` captions per image by beam search, or sample them with a seed or parameters."""
        self._require("caption")
        items = image_list(images)
        check_positive(n=n, beams=beams)
        check_count("captions", max(n, beams or 1), MAX_CAPTIONS)
        if beams is not None and (seed is not None or params is not None):
            raise CogViewError(
                "beams cannot be combined with a seed or sampling settings; give one of them", field="beams"
            )
        if beams is not None and beams < n:
            raise CogViewError(f"{n} captions need at least {n} beams, not {beams}", field="beams")
        if self._texts.format.languages:
            language = language or "en"
        codes = [self.codes_of(item) for item in items]
        if seed is None and params is None:
            width = beams or max(BEAMS, n)
            return [self._texts.beams(image, n, width, language, max_length) for image in codes]
        resolved = self.family.sampling("caption", params)
        return self._texts.sample(codes, n, checked_seed(seed), resolved, language, max_length)

    def score(self, images: AnyImage | Sequence[AnyImage], texts: str | Sequence[str]) -> NDArray[np.float64]:
        """The caption loss (images, texts), in nats per token; lower is better."""
        self._require("score")
        items, texts = image_list(images), text_list(texts, "text to score")
        format = self._texts.format
        tokens = [self.exported.text_tokenizer.encode(text.strip()) for text in texts]
        for text, ids in zip(texts, tokens, strict=True):
            check_text(format, text, ids)
        codes, losses = [self.codes_of(item) for item in items], np.empty((len(items), len(texts)))
        languages = [language_of(text) if format.languages else None for text in texts]
        for language in dict.fromkeys(languages):
            columns = [number for number, other in enumerate(languages) if other == language]
            losses[:, columns] = self._texts.losses(codes, [tokens[i] for i in columns], language)
        return losses

    def rerank(self, prompt: str, images: Sequence[AnyImage]) -> list[Ranked]:
        """Rank images by how well ``prompt`` describes them, the best first."""
        losses = self.score(images, prompt)[:, 0]
        return [Ranked(int(number), float(losses[number])) for number in np.argsort(losses, kind="stable")]

    # ------------------------------------------------------------------------------------------------ edit

    def edit(
        self,
        image: AnyImage,
        prompt: str,
        mask: AnyMask | None = None,
        n: int = 1,
        seed: int | None = None,
        *,
        boxes: Box | Sequence[Box] = (),
        order: Order = "together",
        crop: Crop = "auto",
        feather: int = FEATHER,
        style: str | None = None,
        negative_prompt: str | None = None,
        first_stage_only: bool = False,
        params: SamplingParams | None = None,
        batch_size: int | None = None,
        progress: ProgressCallback | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Inpaint: generate the masked pixels again from a prompt; other pixels stay unchanged.

        Arguments as for :meth:`cogview.pipelines.model.Pipeline.edit`.
        """
        self._require("edit")
        check_positive(n=n, batch_size=batch_size)
        resolved = self._params("edit", params, style, negative_prompt, sampling)
        original, (engine, format) = upright(image), self._coglm
        full_mask = mask_of(mask, boxes, original.size)
        caption = caption_for(self.family, text_list(prompt)[0], style)
        tokens = encode_caption(self.exported, caption, format.text_limit)
        negative = encode_caption(self.exported, (negative_prompt or "").strip(), format.text_limit)
        first = checked_seed(seed)
        streams = [(first, index) for index in range(n)]
        settings = self._stage_params()
        editor = Editor(engine, format, self.exported, self._encode, self._stages, settings)
        region = editing.crop_region(full_mask, crop, editor.size)
        upper = None if first_stage_only else editor.upper(region)
        is_full = region.shape == full_mask.shape
        codes = self.codes_of(image) if is_full else self._encode(to_rgb(region.cut(original))[0])
        facts = {**resolved.model_dump(), **self._facts, "style": style, "task": "edit", "order": order}
        facts |= {"crop": crop, "feather": feather, "box": list(region.box)}
        facts |= {} if upper is None else {"super_resolution": upper.facts["super_resolution"]}
        facts |= {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        results = editor.run(
            original, region, codes, tokens, format.text_ids(negative), streams, resolved, order, feather,
            upper, batch_size, progress,
        )  # fmt: skip
        return [
            self._image(edited, edited_codes, prompt, caption, *stream, facts)
            for (edited, edited_codes), stream in zip(results, streams, strict=True)
        ]

    # --------------------------------------------------------------------------------------------- upscale

    def upscale(
        self,
        images: AnyImage | Sequence[AnyImage],
        prompt: str | Sequence[str] | None = None,
        seed: int | None = None,
        *,
        times: int | None = None,
        faithful: bool = True,
        detail: float = DETAIL,
        negative_prompt: str | None = None,
        params: SamplingParams | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[GeneratedImage]:
        """Upscale images; the model generates the missing detail.

        ``times``: default: 2, or the scale of two-stage super-resolution. Other arguments as for
        :meth:`cogview.pipelines.model.Pipeline.upscale`.
        """
        self._require("upscale")
        items = image_list(images)
        texts = text_for_each(prompt, len(items))
        if not 0 <= detail <= 1:
            raise CogViewError(f"detail is {detail}; give a number from 0 to 1", field="detail")
        resolved = self._params("upscale", params, None, negative_prompt, sampling)
        if self._stages is not None and UPSCALING not in self.family.roles:
            if times not in (None, self._stages.scale):
                scale = self._stages.scale
                raise CogViewError(f"times is {times}; this model upscales {scale} times", field="times")
            if not faithful or detail != DETAIL or negative_prompt is not None:
                extra = "faithful, detail and negative_prompt"
                raise CogViewError(f"{self.family.name} upscales in two stages; leave out {extra}")
            return self._all_in_stages(items, texts, seed, self._stages)
        times = self.upscales if times is None else times
        upscaler, seed = self._upscaler, seed if seed is None else checked_seed(seed)
        upscaler.stages(times)
        limit = upscaler.format.text_limit
        negative = encode_caption(self.exported, (negative_prompt or "").strip(), limit)
        settings = {**resolved.model_dump(), **self._facts, "task": "upscale", "times": times, "size": None}
        settings |= {"faithful": faithful, "detail": detail}
        results = []
        for item, text in zip(items, texts, strict=True):
            original, item_prompt, caption, item_seed, index, facts = self._source(item, text, seed, times)
            tokens = encode_caption(self.exported, caption, limit)
            codes, image = upscaler.run(
                original, tokens, item_seed, index, times, resolved, negative, faithful, detail
            )
            provenance = {**settings, "source": facts}
            results.append(
                self._image(image, codes.ravel(), item_prompt, caption, item_seed, index, provenance)
            )
        return results

    def _all_in_stages(
        self, items: Sequence[AnyImage], texts: Sequence[str | None], seed: int | None, stages: TwoStages
    ) -> list[GeneratedImage]:
        """Upscale images in two stages; low-resolution codes of generated images are reused."""
        results, parts = [], ProgressParts(None, 0)
        for item, text in zip(items, texts, strict=True):
            prompt, caption = prompt_and_caption(self.family, item, text)
            if isinstance(item, GeneratedImage) and len(item.codes) == np.prod(stages.format.small):
                item_seed = item.seed if seed is None else checked_seed(seed)
                small = replace(item, seed=item_seed, prompt=prompt, caption=caption)
            else:
                image = item.image if isinstance(item, GeneratedImage) else open_rgb(item)[0]
                facts = {**self._facts, "task": "upscale", "source": image_facts(image)}
                codes = self._encode(image)
                small = self._image(image, codes, prompt, caption, checked_seed(seed), 0, facts)
            style = small.settings.get("style")
            style = style if isinstance(style, str) else None
            results.append(self._upscale_in_stages(small, stages, style, parts))
        return results

    def _source(
        self, item: AnyImage, text: str | None, seed: int | None, times: int
    ) -> tuple[Original, str, str, int, int, dict[str, Any]]:
        """An image to upscale, its prompt and caption, seed and index, and its provenance entry."""
        prompt, caption = prompt_and_caption(self.family, item, text)
        if isinstance(item, GeneratedImage):
            facts = {"seed": item.seed, "index": item.index, "settings": item.settings}
            grid = self._format(BASE).grid if BASE in self.family.roles else (0, 0)
            if len(item.codes) == grid[0] * grid[1]:
                item_seed = item.seed if seed is None else seed
                return Original(item.codes.reshape(grid)), prompt, caption, item_seed, item.index, facts
            image, name = item.image, "image"
        else:
            image, name = open_rgb(item)
        try:
            original = self._upscaler.read(image, times)
        except CogViewError as error:
            raise CogViewError(f"{name}: {error}") from None
        return original, prompt, caption, checked_seed(seed), 0, image_facts(image)
