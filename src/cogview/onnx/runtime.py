"""A family's tasks with ONNX Runtime: generate, edit, caption, score, rerank, upscale. PyTorch is not
imported."""

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
    """A family that ``cogview export onnx`` wrote.

    Args:
        folder: with its ``manifest.json``.
        threads: default: what the container and other programs leave.
        decoding: as of :meth:`cogview.pipelines.model.Pipeline.from_pretrained`; the tokens are the same.

    Raises CogViewError where the folder is none or not whole.
    """

    def __init__(self, folder: Path | str, threads: int | None = None, decoding: Decoding = "auto") -> None:
        check_positive(threads=threads)
        if decoding not in get_args(Decoding):
            known = ", ".join(get_args(Decoding))
            raise CogViewError(f"unknown decoding {decoding!r}; there are {known}", field="decoding")
        self.exported, self.decoding = Exported(folder, threads), decoding

    @property
    def family(self) -> FamilyConfig:
        """Vocabulary, sequence formats, styles and sampling defaults."""
        return self.exported.manifest.family

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the folder has the graphs for."""
        return self.exported.manifest.tasks

    # ---------------------------------------------------------------------------------------------- parts

    def _require(self, task: Task) -> None:
        if task not in self.tasks:
            there = ", ".join(self.tasks)
            raise CogViewError(
                f"{self.exported.folder} has no graphs for this ({task}); it has those to {there}",
                field="model",
            )

    def _format(self, role: str) -> Any:
        return self.family.roles[role].sequences

    @cached_property
    def _base(self) -> Engine:
        return Engine(self.exported.transformer(BASE), "image", self.exported.clusters, self.decoding)

    @cached_property
    def _coglm(self) -> tuple[Engine, CogLMFormat]:
        """What edits, and its sequences."""
        role = self.family.coglm
        form = None if role is None else of_type(self._format(role), CogLMFormat)
        assert role is not None and form is not None
        session = self.exported.transformer(role)
        return Engine(session, "image", self.exported.clusters, self.decoding), form

    @cached_property
    def _texts(self) -> Texts:
        """The caption model: a role of its own, or a CogLM's other head."""
        role = CAPTION if CAPTION in self.exported.manifest.transformers else self.family.coglm
        assert role is not None
        session = self.exported.transformer(role)
        format: CaptionFormat = self._format(role)
        return Texts(Engine(session, "text", None, self.decoding), format, self.exported.text_tokenizer)

    @cached_property
    def _upscaler(self) -> Upscaler:
        form = of_type(self._format(UPSCALING), SequenceFormat)
        assert form is not None
        session = self.exported.transformer(UPSCALING)
        return Upscaler(Engine(session, "image", None, self.decoding), form, self.exported)

    @cached_property
    def _stages(self) -> TwoStages | None:
        """Super-resolution in two stages, where the family has it."""
        roles, open_role = self.family.roles, self.exported.transformer
        direct = of_type(roles[DIRECT].sequences, DirectFormat) if DIRECT in roles else None
        if direct is None:
            return None
        second = of_type(roles[ITERATIVE].sequences, IterativeFormat) if ITERATIVE in roles else None
        session = None if second is None else open_role(ITERATIVE)
        return TwoStages(self.exported, open_role(DIRECT), direct, session, second)

    @property
    def upscales(self) -> int:
        """How many times longer sides get where nothing else is asked for."""
        return 2 if self._stages is None or UPSCALING in self.family.roles else self._stages.scale

    def _stage_params(
        self, style: str | None = None
    ) -> Callable[[str, SamplingParams | None], SamplingParams]:
        """Sampling of a stage of super-resolution, for images of a style."""
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
        """``n`` images for each prompt, in order; those of ``cogview.from_pretrained(...).generate`` with the
        same seed.

        Args:
            first: index of the first image; best_of: generate this many for each image wanted and keep the
                ``n`` that the caption model finds the prompt describes best.
            first_stage_only: of a family that upscales what it generates, the low-resolution images.
            step_callback: called after each token with the numbers of the images in the batch and their codes
                so far (b, codes). What it raises ends the generation.
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
            raise CogViewError(f"{self.family.name} draws in one step; leave out first_stage_only")
        stages = self._stages if self.family.two_stage and not first_stage_only else None
        if stages is not None:
            check_captions(self.exported, captions, stages.form.text_limit)
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
        large = 0 if stages is None else len(texts) * n * stages.form.codes * stages.stages
        parts = ProgressParts(progress, small + large)
        facts = {**resolved.model_dump(), **self._facts, "style": style}
        facts |= {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        made = []
        for number, codes in self._base.generate(
            requests, resolved, batch_size, parts.part(small), step_callback=step_callback
        ):
            place, index = divmod(number, len(numbers))
            image = image_of(self.exported.decode(codes.reshape(format.grid)))
            made.append(self._image(image, codes, texts[place], captions[place], seed, first + index, facts))
        if best_of > 1:
            groups = [made[at : at + n * best_of] for at in range(0, len(made), n * best_of)]
            made = [image for group in groups for image in self._best(group, n)]
        if stages is None:
            return made
        return [self._enlarged(image, stages, style, parts) for image in made]

    def _enlarged(
        self, image: GeneratedImage, stages: TwoStages, style: str | None, parts: ProgressParts
    ) -> GeneratedImage:
        """An image with the direct model's small codes, as a large one."""
        text = self.exported.text_tokenizer.encode(image.caption)[: stages.form.text_limit]
        settings, report = self._stage_params(style), parts.part(stages.stages * stages.form.codes)
        codes = stages.run(image.codes, text, image.seed, image.index, settings, progress=report)
        decoded = image_of(self.exported.decode(codes.reshape(stages.form.grid)))
        return replace(image, image=decoded, codes=codes, settings={**image.settings, **stages.facts})

    def _best(self, images: Sequence[GeneratedImage], keep: int) -> list[GeneratedImage]:
        """Of one prompt's images the ``keep`` with the lowest caption loss, the best first."""
        losses = self.score(list(images), images[0].caption)[:, 0]
        chosen = []
        for rank, number in enumerate(np.argsort(losses, kind="stable")[:keep].tolist()):
            facts = {"of": len(images), "rank": rank, "caption_loss": round(float(losses[number]), 5)}
            settings = {**images[number].settings, "best_of": facts}
            chosen.append(replace(images[number], settings=settings))
        return chosen

    def _params(
        self, task: str, params: SamplingParams | None, style: str | None, negative: str | None, given: Any
    ) -> SamplingParams:
        """Complete parameters of a task."""
        call = SamplingParams.given(**given)
        found = self.family.sampling(task, call if params is None else call.over_given(params), style)
        if negative is not None and found.guidance_scale == 1:
            raise CogViewError(
                "negative_prompt needs guidance; give a guidance_scale other than 1", field="negative_prompt"
            )
        return found

    @property
    def _facts(self) -> dict[str, Any]:
        """How it is computed; part of an image's provenance."""
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
        """An image's codes (rows * columns,) for the caption model; a generated one has them already."""
        if isinstance(image, GeneratedImage) and len(image.codes) == self._texts.format.codes:
            return image.codes
        return self._fitted(image.image if isinstance(image, GeneratedImage) else open_rgb(image)[0])

    def _fitted(self, shown: Image.Image) -> Ids:
        """Codes (rows * columns,) of an RGB image, made the square that the model reads."""
        fitting = self.exported.manifest.fitting
        assert fitting is not None
        if fitting.crop:
            pixels = square(shown, Preprocessing(size=fitting.size, resample=fitting.resample))
        else:
            pixels = np.asarray(shown.resize((fitting.size, fitting.size), RESAMPLE[fitting.resample]))
        found = np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
        return self.exported.encode(found)[1].ravel()

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
        """``n`` captions of each image: found by ``beams``, or sampled with a seed or sampling parameters."""
        self._require("caption")
        items = image_list(images)
        check_positive(n=n, beams=beams)
        check_count("captions", max(n, beams or 1), MAX_CAPTIONS)
        if beams is not None and (seed is not None or params is not None):
            raise CogViewError(
                "beams and a seed or sampling settings exclude each other; give one of them", field="beams"
            )
        if beams is not None and beams < n:
            raise CogViewError(f"{n} captions need at least {n} beams, not {beams}", field="beams")
        if self._texts.format.languages:
            language = language or "en"
        codes = [self.codes_of(item) for item in items]
        if seed is None and params is None:
            width = beams or max(BEAMS, n)
            return [self._texts.likeliest(own, n, width, language, max_length) for own in codes]
        resolved = self.family.sampling("caption", params)
        return self._texts.sampled(codes, n, checked_seed(seed), resolved, language, max_length)

    def score(self, images: AnyImage | Sequence[AnyImage], texts: str | Sequence[str]) -> NDArray[np.float64]:
        """(images, texts): how badly a text describes an image, in nats a token; the lower the better."""
        self._require("score")
        items, words = image_list(images), text_list(texts, "text to score")
        format = self._texts.format
        tokens = [self.exported.text_tokenizer.encode(text.strip()) for text in words]
        for text, own in zip(words, tokens, strict=True):
            check_text(format, text, own)
        codes, losses = [self.codes_of(item) for item in items], np.empty((len(items), len(words)))
        spoken = [language_of(text) if format.languages else None for text in words]
        for language in dict.fromkeys(spoken):
            places = [number for number, one in enumerate(spoken) if one == language]
            losses[:, places] = self._texts.losses(codes, [tokens[i] for i in places], language)
        return losses

    def rerank(self, prompt: str, images: Sequence[AnyImage]) -> list[Ranked]:
        """Images by how well ``prompt`` describes them, the best first."""
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
        """Generate what is masked again, by a sentence; pixels outside stay as they are. Arguments as those
        of :meth:`cogview.pipelines.model.Pipeline.edit`."""
        self._require("edit")
        check_positive(n=n, batch_size=batch_size)
        resolved = self._params("edit", params, style, negative_prompt, sampling)
        original, (engine, form) = upright(image), self._coglm
        hole = mask_of(mask, boxes, original.size)
        caption = caption_for(self.family, text_list(prompt)[0], style)
        tokens = encode_caption(self.exported, caption, form.text_limit)
        negative = encode_caption(self.exported, (negative_prompt or "").strip(), form.text_limit)
        first = checked_seed(seed)
        streams = [(first, index) for index in range(n)]
        settings = self._stage_params()
        editor = Editor(engine, form, self.exported, self._fitted, self._stages, settings)
        area = editing.crop_region(hole, crop, editor.size)
        upper = None if first_stage_only else editor.upper(area)
        whole = area.shape == hole.shape
        codes = self.codes_of(image) if whole else self._fitted(to_rgb(area.cut(original))[0])
        facts = {**resolved.model_dump(), **self._facts, "style": style, "task": "edit", "order": order}
        facts |= {"crop": crop, "feather": feather, "box": list(area.box)}
        facts |= {} if upper is None else {"super_resolution": upper.facts["super_resolution"]}
        facts |= {} if negative_prompt is None else {"negative_prompt": negative_prompt}
        made = editor.run(
            original, area, codes, tokens, form.text_ids(negative), streams, resolved, order, feather,
            upper, batch_size, progress,
        )  # fmt: skip
        return [
            self._image(edited, found, prompt, caption, *stream, facts)
            for (edited, found), stream in zip(made, streams, strict=True)
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
        """Images ``times`` as large (default: 2, or what super-resolution in two stages makes), with the
        detail generated that they do not show; arguments as those of
        :meth:`cogview.pipelines.model.Pipeline.upscale`."""
        self._require("upscale")
        items = image_list(images)
        words = text_for_each(prompt, len(items))
        if not 0 <= detail <= 1:
            raise CogViewError(f"detail is {detail}; give a number from 0 to 1", field="detail")
        resolved = self._params("upscale", params, None, negative_prompt, sampling)
        if self._stages is not None and UPSCALING not in self.family.roles:
            if times not in (None, self._stages.scale):
                scale = self._stages.scale
                raise CogViewError(f"times is {times}; this model enlarges {scale} times", field="times")
            if not faithful or detail != DETAIL or negative_prompt is not None:
                only = "faithful, detail and negative_prompt"
                raise CogViewError(f"{self.family.name} upscales in two stages; leave out {only}")
            return self._in_stages(items, words, seed, self._stages)
        times = self.upscales if times is None else times
        upscaler, seed = self._upscaler, seed if seed is None else checked_seed(seed)
        upscaler.stages(times)
        limit = upscaler.form.text_limit
        negative = encode_caption(self.exported, (negative_prompt or "").strip(), limit)
        settings = {**resolved.model_dump(), **self._facts, "task": "upscale", "times": times, "size": None}
        settings |= {"faithful": faithful, "detail": detail}
        made = []
        for item, text in zip(items, words, strict=True):
            original, told, caption, own_seed, index, facts = self._source(item, text, seed, times)
            tokens = encode_caption(self.exported, caption, limit)
            codes, image = upscaler.run(
                original, tokens, own_seed, index, times, resolved, negative, faithful, detail
            )
            own = {**settings, "source": facts}
            made.append(self._image(image, codes.ravel(), told, caption, own_seed, index, own))
        return made

    def _in_stages(
        self, items: Sequence[AnyImage], words: Sequence[str | None], seed: int | None, stages: TwoStages
    ) -> list[GeneratedImage]:
        """Images upscaled in two stages: those generated as small ones from their codes."""
        made, parts = [], ProgressParts(None, 0)
        for item, text in zip(items, words, strict=True):
            prompt, caption = prompt_and_caption(self.family, item, text)
            if isinstance(item, GeneratedImage) and len(item.codes) == np.prod(stages.form.small):
                own = item.seed if seed is None else checked_seed(seed)
                small = replace(item, seed=own, prompt=prompt, caption=caption)
            else:
                shown = item.image if isinstance(item, GeneratedImage) else open_rgb(item)[0]
                facts = {**self._facts, "task": "upscale", "source": image_facts(shown)}
                codes = self._fitted(shown)
                small = self._image(shown, codes, prompt, caption, checked_seed(seed), 0, facts)
            style = small.settings.get("style")
            made.append(self._enlarged(small, stages, style if isinstance(style, str) else None, parts))
        return made

    def _source(
        self, item: AnyImage, text: str | None, seed: int | None, times: int
    ) -> tuple[Original, str, str, int, int, dict[str, Any]]:
        """An image to upscale, its prompt and caption, seed and index, and what provenance says of it."""
        prompt, caption = prompt_and_caption(self.family, item, text)
        if isinstance(item, GeneratedImage):
            told = {"seed": item.seed, "index": item.index, "settings": item.settings}
            grid = self._format(BASE).grid if BASE in self.family.roles else (0, 0)
            if len(item.codes) == grid[0] * grid[1]:
                own_seed = item.seed if seed is None else seed
                return Original(item.codes.reshape(grid)), prompt, caption, own_seed, item.index, told
            image, where = item.image, "picture"
        else:
            image, where = open_rgb(item)
        try:
            original = self._upscaler.read(image, times)
        except CogViewError as error:
            raise CogViewError(f"{where}: {error}") from None
        return original, prompt, caption, checked_seed(seed), 0, image_facts(image)
