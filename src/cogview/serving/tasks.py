"""What is asked with an image: edits, variations, enlargements, captions, scores.

Each is computed alone, by the methods of the library that the command line uses.
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
from cogview.serving.drawing import candidates, readable
from cogview.serving.labelling import Labelling
from cogview.serving.openai.fields import REDRAWN
from cogview.serving.openai.finish import Finish
from cogview.serving.openai.sizes import parse
from cogview.serving.pictures import encoded, opened
from cogview.serving.schema import Captioning, Edit, Scoring, Upscaling, Variation
from cogview.serving.sentences import others_for, share_above
from cogview.serving.served import Served
from cogview.serving.worker import Made, Stopped, Ticket
from cogview.types import ProgressCallback as Progress

BLANK = ("white", "grey")  # images without content, for what a sentence costs whatever is shown
CLOSEST = 3  # sentences that are reported for comparison
HALF = 128  # alpha below which a mask's pixel is open


@dataclass(frozen=True, eq=False)
class Call:
    """A computation of one request: ``work`` gets what to call with its progress and gives the results.

    task: its name, for the expected time; weight: how many images or the like; text, read, drawn: tokens of
    the prompt, of the image that came with it, of the images that come out.
    """

    work: Callable[[Progress], Iterable[Any]]
    served: Served
    task: str
    weight: int = 1
    size: int = 1
    key: None = None
    finish: Finish = field(default_factory=Finish)
    text: int = 0
    read: int = 0
    drawn: int = 0

    @property
    def kind(self) -> Hashable:
        return self.task, self.served.name

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Compute it; Stopped when its client is gone."""
        [ticket] = tickets

        def progress(done: int, total: int) -> None:
            if not ticket.alive:
                raise Stopped
            ticket.touch(done / total if total else None)

        for number, value in enumerate(self.work(progress)):
            ticket.emit(Made(number, value) if isinstance(value, GeneratedImage) else value)
            if isinstance(value, GeneratedImage):
                ticket.metrics.add("cogview_pictures_total", model=self.served.name)


def edit(
    request: Edit, served: Served, image: Image.Image, mask: Image.Image | None, ignored: Sequence[str] = ()
) -> Call:
    """The masked part replaced; ApiError for what is wrong before anything is queued.

    Without mask and box parts at random of the whole image are, as in a variation with words; how much says
    ``input_fidelity``.
    """
    cogview = _editor(served)
    if mask is None and not request.box:
        share = REDRAWN[request.input_fidelity]
        given = request.model_dump(include=set(Variation.model_fields) & request.model_fields_set)
        variation = Variation.model_validate(given | {"share": share})
        return vary(variation, served, image, ignored=ignored)
    plan = _Plan.of(request, served, request.prompt, [*ignored, *_meaningless(request)])
    hole = None if mask is None else mask_pixels(mask)

    def work(progress: Progress) -> list[GeneratedImage]:
        return cogview.edit(
            image,
            plan.prompt,
            mask=hole,
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

    return plan.call(work)


def vary(request: Variation, served: Served, image: Image.Image, ignored: Sequence[str] = ()) -> Call:
    """Random parts generated again."""
    cogview = _editor(served)
    plan = _Plan.of(request, served, request.prompt, ignored, several=False)

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

    return plan.call(work)


@dataclass(frozen=True)
class _Plan:
    """What an edit and a variation have in common, checked before anything is queued."""

    request: Edit | Variation
    served: Served
    prompt: str
    style: str | None
    negative: str | None
    best_of: int
    finish: Finish
    text: int

    @classmethod
    def of(
        cls,
        request: Edit | Variation,
        served: Served,
        prompt: str,
        ignored: Sequence[str],
        several: bool = True,
    ) -> _Plan:
        """ApiError for a prompt that is empty or too long, a style or a size there is not."""
        cogview = served.cogview
        style, found = request.own_style(cogview.styles), [*ignored, *request.unused(cogview.styles)]
        best_of = candidates(request, served) if several else 1
        if not several and request.best_of is not None:
            found.append("best_of")
        if request.partial_images:
            found.append("partial_images")
        size, text, negative = (
            None if request.size == "auto" else parse(request.size),
            0,
            request.negative_prompt,
        )
        try:
            part, config = cogview.text_to_image, cogview.bundle.config
            if prompt.strip() or style is not None or isinstance(request, Edit):
                short = readable(request, prompt, served, style, part.format.text_limit)
                if short != prompt:
                    prompt = short
                    found.append("prompt (its end)")
                text = len(part.encode(caption_for(config, prompt, style)))
        except CogViewError as error:
            raise ApiError(400, str(error), code="invalid_value", param="prompt") from error
        if negative and negative != (
            negative := readable(request, negative, served, None, part.format.text_limit)
        ):
            found.append("negative_prompt (its end)")
        if negative and config.sampling("edit", request.params, style).guidance_scale == 1:
            negative = None
            found.append("negative_prompt")
        finish = Finish.of(request, size, found)
        return cls(request, served, prompt, style, negative, best_of, finish, text)

    @property
    def first_stage_only(self) -> bool:
        return self.request.first_stage_only or (self.request.quality == "low" and self.served.enlarges)

    def call(self, work: Callable[[Progress], Iterable[Any]]) -> Call:
        codes = self.served.cogview.text_to_image.format.codes
        drawn = codes * self.request.n * self.best_of
        task, weight = type(self.request).__name__.lower(), self.request.n * self.best_of
        return Call(
            work, self.served, task, weight, finish=self.finish, text=self.text, read=codes, drawn=drawn
        )


def _meaningless(request: Edit) -> list[str]:
    """With a mask all else stays in any case."""
    return ["input_fidelity"] if "input_fidelity" in request.model_fields_set else []


def upscale(request: Upscaling, served: Served, data: bytes) -> Call:
    """An image's file enlarged; one that was made here tells its own prompt."""
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

    return Call(work, served, "upscale", request.times**2)


def caption(request: Captioning, served: Served, images: list[Image.Image]) -> Call:
    """Captions of images: a list of (text, score, seed) for each."""

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

    return Call(work, served, "caption", request.n * len(images))


def score(request: Scoring, served: Served, images: list[Image.Image]) -> Call:
    """For each image and text the caption loss and, if asked for, where it stands among other sentences.

    Compared is how far the loss is below that for blank images, so that common words have no advantage.
    """
    part = served.cogview.captioning
    others = [others_for(prompt) if request.compare else () for prompt in request.prompt]
    readable = {text: _read_whole(part, text) for text in dict.fromkeys(itertools.chain(*others))}
    texts = [*request.prompt, *(text for text, fits in readable.items() if fits)]

    blank = [Image.new("RGB", (64, 64), shade) for shade in BLANK] if request.compare else []

    def work(progress: Progress) -> list[list[dict[str, Any]]]:
        losses = served.cogview.score([*images, *blank], texts, progress=progress)
        usual = losses[len(images) :].mean(0) if blank else np.zeros(len(texts))
        asked = range(len(request.prompt))
        return [[entry(number, row, row - usual) for number in asked] for row in losses[: len(images)]]

    def entry(number: int, losses: NDArray[np.float64], above: NDArray[np.float64]) -> dict[str, Any]:
        found = {"prompt": request.prompt[number], "caption_loss": float(losses[number])}
        known = sorted((float(above[texts.index(text)]), text) for text in others[number] if readable[text])
        if not known:
            return found
        share = share_above(float(above[number]), [one for one, _ in known])
        closest = [
            {"prompt": text, "caption_loss": float(losses[texts.index(text)])} for _, text in known[:CLOSEST]
        ]
        return found | {"percentile": round(100 * share, 1), "others": len(known), "closest": closest}

    return Call(work, served, "score", len(images))


def cut_out(labelling: Labelling, served: Served, data: bytes) -> Call:
    """An image's file without its even ground, as a PNG that keeps what made it."""

    def work(progress: Progress) -> list[bytes]:
        image = opened(data, "image")
        clear = without_background(image)
        if clear is None:
            raise ApiError(
                400, "the picture has no even ground to remove", code="no_even_ground", param="image"
            )
        facts = provenance.read(data)
        if facts is not None:
            facts = facts.model_copy(update={"settings": facts.settings | {"background": "transparent"}})
        return [encoded(clear, "png", 100, facts, labelling.label)]

    return Call(work, served, "cut_out")


def _read_whole(part: CaptionPipeline, text: str) -> bool:
    """Whether a sentence is short enough for the model that scores."""
    try:
        part.encode(text)
    except CogViewError:
        return False
    return True


def mask_pixels(mask: Image.Image) -> NDArray[np.bool_]:
    """True where the image is generated again: where a mask is transparent, or, if it is not, white."""
    if mask.mode == "RGBA":
        found: NDArray[np.bool_] = np.asarray(mask)[..., 3] < HALF
        if found.any():
            return found
    return mask_of_image(mask)


def _editor(served: Served) -> Pipeline:
    served.require("edit")
    return served.cogview
