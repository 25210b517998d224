"""Jobs for requests that come with an image: edits, variations, upscaling, captions, scores, cut-outs.

Each is computed alone, by the same pipeline methods that the command line uses.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.checkpoints import provenance
from cogview.errors import CogViewError, OutOfMemory
from cogview.generation.editing import mask_of_image
from cogview.pipelines.background import without_background
from cogview.pipelines.base import Caption, GeneratedImage, caption_for
from cogview.pipelines.captioning import Captioning as CaptionPipeline
from cogview.pipelines.model import Pipeline
from cogview.serving.api_errors import ApiError
from cogview.serving.generation_job import candidates_per_image, truncated
from cogview.serving.labelling import Labelling
from cogview.serving.openai.fields import EDIT_MASK_RATIOS
from cogview.serving.openai.postprocess import Postprocess
from cogview.serving.openai.sizes import parse_size
from cogview.serving.pictures import decode_upload, image_bytes
from cogview.serving.schema import Captioning, Edit, Scoring, Upscaling, Variation
from cogview.serving.sentences import others_for, share_above
from cogview.serving.served import ServedModel
from cogview.serving.worker import FinishedImage, Stopped, Ticket
from cogview.types import ProgressCallback as Progress

BLANK = ("white", "grey")  # colours of images without content; their caption loss is a sentence's baseline
CLOSEST = 3  # comparison sentences that are reported
HALF = 128  # a mask's pixels with a lower alpha are edited


@dataclass(frozen=True, eq=False)
class TaskJob:
    """The job of one request: ``work`` takes a progress callback and returns the results.

    task: its name, for time estimates; weight: amount of work, such as the number of images; text_tokens,
    input_image_tokens, generated_tokens: token counts of the prompt, the uploaded image and the results.
    """

    work: Callable[[Progress], Iterable[Any]]
    served: ServedModel
    task: str
    weight: int = 1
    size: int = 1
    key: None = None
    postprocess: Postprocess = field(default_factory=Postprocess)
    text_tokens: int = 0
    input_image_tokens: int = 0
    generated_tokens: int = 0

    @property
    def kind(self) -> Hashable:
        return self.task, self.served.name

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Compute the results; raises Stopped when the client is gone."""
        [ticket] = tickets

        def progress(done: int, total: int) -> None:
            if not ticket.alive:
                raise Stopped
            ticket.touch(done / total if total else None)

        for number, value in enumerate(self.work(progress)):
            ticket.emit(FinishedImage(number, value) if isinstance(value, GeneratedImage) else value)
            if isinstance(value, GeneratedImage):
                ticket.metrics.add("cogview_pictures_total", model=self.served.name)


def edit(
    request: Edit,
    served: ServedModel,
    image: Image.Image,
    mask: Image.Image | None,
    ignored: Sequence[str] = (),
) -> TaskJob:
    """Regenerate the masked part of an image; raises ApiError for invalid values, before anything is queued.

    Without a mask or box, random parts of the whole image are regenerated, as in a variation with a prompt;
    ``input_fidelity`` sets their share.
    """
    cogview = _editor(served)
    if mask is None and not request.box:
        share = EDIT_MASK_RATIOS[request.input_fidelity]
        fields = request.model_dump(include=set(Variation.model_fields) & request.model_fields_set)
        variation = Variation.model_validate(fields | {"share": share})
        return vary(variation, served, image, ignored=ignored)
    plan = _Plan.of(request, served, request.prompt, [*ignored, *_ignored_with_mask(request)])
    edited = None if mask is None else mask_pixels(mask)

    def work(progress: Progress) -> list[GeneratedImage]:
        return cogview.edit(
            image,
            plan.prompt,
            mask=edited,
            boxes=list(request.box),
            n=request.n,
            seed=request.seed,
            style=plan.style,
            negative_prompt=plan.negative,
            order=request.order,
            crop=request.crop,
            feather=request.feather,
            params=request.params,
            first_stage_only=plan.first_stage_only,
            best_of=plan.best_of,
            progress=progress,
        )

    return plan.job(work)


def vary(request: Variation, served: ServedModel, image: Image.Image, ignored: Sequence[str] = ()) -> TaskJob:
    """Regenerate random parts of an image."""
    cogview = _editor(served)
    plan = _Plan.of(request, served, request.prompt, ignored, rerank=False)

    def work(progress: Progress) -> list[GeneratedImage]:
        return cogview.vary(
            image,
            plan.prompt,
            mask_ratio=request.share,
            n=request.n,
            seed=request.seed,
            style=plan.style,
            negative_prompt=plan.negative,
            params=request.params,
            first_stage_only=plan.first_stage_only,
            progress=progress,
        )

    return plan.job(work)


@dataclass(frozen=True)
class _Plan:
    """Validated settings that edits and variations share."""

    request: Edit | Variation
    served: ServedModel
    prompt: str
    style: str | None
    negative: str | None
    best_of: int
    postprocess: Postprocess
    text_tokens: int

    @classmethod
    def of(
        cls,
        request: Edit | Variation,
        served: ServedModel,
        prompt: str,
        ignored: Sequence[str],
        rerank: bool = True,
    ) -> _Plan:
        """Validate a request; rerank: whether ``best_of`` is supported.

        Raises:
            ApiError: the prompt is empty or too long, or the style or size does not exist.
        """
        cogview = served.cogview
        style = request.effective_style(cogview.styles)
        ignored = [*ignored, *request.ignored_fields(cogview.styles)]
        best_of = candidates_per_image(request, served) if rerank else 1
        if not rerank and request.best_of is not None:
            ignored.append("best_of")
        if request.partial_images:
            ignored.append("partial_images")
        size, text_tokens, negative = (
            None if request.size == "auto" else parse_size(request.size),
            0,
            request.negative_prompt,
        )
        try:
            part, config = cogview.text_to_image, cogview.bundle.config
            if prompt.strip() or style is not None or isinstance(request, Edit):
                short = truncated(request, prompt, served, style, part.format.text_limit)
                if short != prompt:
                    prompt = short
                    ignored.append("prompt (its end)")
                text_tokens = len(part.encode(caption_for(config, prompt, style)))
        except CogViewError as error:
            raise ApiError(400, str(error), code="invalid_value", param="prompt") from error
        if negative and negative != (
            negative := truncated(request, negative, served, None, part.format.text_limit)
        ):
            ignored.append("negative_prompt (its end)")
        if negative and config.sampling("edit", request.params, style).guidance_scale == 1:
            negative = None
            ignored.append("negative_prompt")
        postprocess = Postprocess.of(request, size, ignored)
        return cls(request, served, prompt, style, negative, best_of, postprocess, text_tokens)

    @property
    def first_stage_only(self) -> bool:
        return self.request.first_stage_only or (self.request.quality == "low" and self.served.two_stage)

    def job(self, work: Callable[[Progress], Iterable[Any]]) -> TaskJob:
        codes = self.served.cogview.text_to_image.format.codes
        task, weight = type(self.request).__name__.lower(), self.request.n * self.best_of
        return TaskJob(
            work,
            self.served,
            task,
            weight,
            postprocess=self.postprocess,
            text_tokens=self.text_tokens,
            input_image_tokens=codes,
            generated_tokens=codes * self.request.n * self.best_of,
        )


def _ignored_with_mask(request: Edit) -> list[str]:
    """``input_fidelity`` has no effect with a mask: everything outside it stays."""
    return ["input_fidelity"] if "input_fidelity" in request.model_fields_set else []


def upscale(request: Upscaling, served: ServedModel, data: bytes) -> TaskJob:
    """Upscale an image file; a file that this package generated holds its own prompt."""
    cogview = served.cogview

    def work(progress: Progress) -> list[GeneratedImage]:
        with tempfile.TemporaryDirectory(prefix="cogview-") as folder:
            file = Path(folder) / "upload"
            file.write_bytes(data)
            try:
                return cogview.upscale(
                    file,
                    request.prompt,
                    times=request.times,
                    seed=request.seed,
                    faithful=request.faithful,
                    detail=request.detail,
                    params=request.params,
                    progress=progress,
                )
            except CogViewError as error:
                if isinstance(error, OutOfMemory):
                    raise
                raise CogViewError(str(error).replace(str(file), "image")) from error

    return TaskJob(work, served, "upscale", request.times**2)


def caption(request: Captioning, served: ServedModel, images: list[Image.Image]) -> TaskJob:
    """Caption images; the result is a list of captions for each image."""

    def work(progress: Progress) -> list[list[Caption]]:
        return served.cogview.caption(
            images,
            request.n,
            language=request.language,
            beams=request.beams,
            seed=request.seed,
            params=request.params,
            max_length=request.max_length,
            progress=progress,
        )

    return TaskJob(work, served, "caption", request.n * len(images))


def score(request: Scoring, served: ServedModel, images: list[Image.Image]) -> TaskJob:
    """Caption loss of each image and text and, with ``compare``, its percentile among other sentences.

    The comparison uses the difference to the loss for blank images, so that common words have no advantage.
    """
    part = served.cogview.captioning
    others = [others_for(prompt) if request.compare else () for prompt in request.prompt]
    fits = {text: _fits(part, text) for text in dict.fromkeys(itertools.chain(*others))}
    texts = [*request.prompt, *(text for text, short in fits.items() if short)]

    blank = [Image.new("RGB", (64, 64), shade) for shade in BLANK] if request.compare else []

    def work(progress: Progress) -> list[list[dict[str, Any]]]:
        losses = served.cogview.score([*images, *blank], texts, progress=progress)
        baseline = losses[len(images) :].mean(0) if blank else np.zeros(len(texts))
        prompts = range(len(request.prompt))
        return [[entry(number, row, row - baseline) for number in prompts] for row in losses[: len(images)]]

    def entry(number: int, losses: NDArray[np.float64], relative: NDArray[np.float64]) -> dict[str, Any]:
        result = {"prompt": request.prompt[number], "caption_loss": float(losses[number])}
        ranked = sorted((float(relative[texts.index(text)]), text) for text in others[number] if fits[text])
        if not ranked:
            return result
        share = share_above(float(relative[number]), [loss for loss, _ in ranked])
        closest = [
            {"prompt": text, "caption_loss": float(losses[texts.index(text)])} for _, text in ranked[:CLOSEST]
        ]
        return result | {"percentile": round(100 * share, 1), "others": len(ranked), "closest": closest}

    return TaskJob(work, served, "score", len(images))


def cut_out(labelling: Labelling, served: ServedModel, data: bytes) -> TaskJob:
    """Remove an image's uniform background; the result is a PNG with the provenance of the original."""

    def work(progress: Progress) -> list[bytes]:
        image = decode_upload(data, "image")
        cut_out = without_background(image)
        if cut_out is None:
            raise ApiError(
                400, "the image has no uniform background to remove", code="no_even_ground", param="image"
            )
        facts = provenance.read(data)
        if facts is not None:
            facts = facts.model_copy(update={"settings": facts.settings | {"background": "transparent"}})
        return [image_bytes(cut_out, "png", 100, facts, labelling.label)]

    return TaskJob(work, served, "cut_out")


def _fits(part: CaptionPipeline, text: str) -> bool:
    """Whether a text is short enough for the caption model."""
    try:
        part.encode(text)
    except CogViewError:
        return False
    return True


def mask_pixels(mask: Image.Image) -> NDArray[np.bool_]:
    """True where the image is regenerated: where the mask is transparent or, without transparency, white."""
    if mask.mode == "RGBA":
        transparent: NDArray[np.bool_] = np.asarray(mask)[..., 3] < HALF
        if transparent.any():
            return transparent
    return mask_of_image(mask)


def _editor(served: ServedModel) -> Pipeline:
    served.require("edit")
    return served.cogview
