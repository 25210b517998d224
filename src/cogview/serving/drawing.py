"""Pictures for sentences: what the worker computes for one request, or for several at once.

Requests for the same model with the same sampling settings are drawn in one batch. Each image has its own
random stream, so it is the one that it is alone (to rounding; exactly in the deterministic mode).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import cast

from PIL import Image
from torch import Tensor

from cogview.errors import CogViewError
from cogview.pipelines.base import GeneratedImage, encode_caption
from cogview.pipelines.model import Pipeline
from cogview.pipelines.text_to_image import GenerationRequest
from cogview.serving.api_errors import ApiError
from cogview.serving.openai.fields import CANDIDATES, quality_told
from cogview.serving.openai.finish import Finish, usage
from cogview.serving.openai.names import is_openai_name
from cogview.serving.openai.sizes import target
from cogview.serving.pictures import unfinished
from cogview.serving.schema import Generation, Painted
from cogview.serving.served import Served
from cogview.serving.worker import Made, Stopped, Ticket
from cogview.types import ProgressCallback, SamplingParams


@dataclass(frozen=True)
class Partial:
    """An image on its way: which one of the request, how many came of it before, what is there (RGBA)."""

    number: int
    step: int
    image: Image.Image


@dataclass(frozen=True, eq=False)
class Drawing:
    """One request for images, checked.

    wanted: what is drawn, ``best_of`` candidates for each of the ``n``; times: how often the result is the
    smallest size; partials: images on their way to show; tokens: of the prompt; finish: what is done to the
    images then.
    """

    served: Served
    wanted: list[GenerationRequest]
    sampling: SamplingParams
    n: int
    best_of: int
    times: int
    partials: int
    tokens: int
    finish: Finish = field(default_factory=Finish)

    @classmethod
    def of(cls, request: Generation, served: Served) -> Drawing:
        """The drawing of a request; ApiError for what it names wrongly, before anything is queued."""
        served.require("generate")
        cogview = served.cogview
        aim = target(served, request.size, request.quality)
        style, ignored = request.own_style(cogview.styles), request.unused(cogview.styles)
        best_of = candidates(request, served)
        if best_of > 1:
            served.require("score")
        part = cogview.text_to_image
        try:
            sampling = cogview.bundle.config.sampling("generate", request.params, style)
            if sampling.clusters and part.engine.clusters is None:
                raise CogViewError(
                    "this model has no clusters of image codes; leave clusters away", field="clusters"
                )
            if request.negative_prompt and sampling.guidance_scale == 1:
                ignored.append("negative_prompt")
            limit = _limit(cogview, aim.times, best_of)
            prompt = readable(request, request.prompt, served, style, limit)
            negative = request.negative_prompt and readable(
                request, request.negative_prompt, served, None, limit
            )
            ignored += ["prompt (its end)"] if prompt != request.prompt else []
            ignored += ["negative_prompt (its end)"] if negative != request.negative_prompt else []
            wanted = part.requests(
                prompt,
                request.n,
                request.seed,
                style=style,
                first=request.first,
                best_of=best_of,
                negative_prompt=negative,
            )
            tokens = len(encode_caption(cogview.components, wanted[0].caption, limit))
        except CogViewError as error:
            raise ApiError(400, str(error), code="invalid_value", param=error.field) from error
        finish = Finish.of(request, aim.size, ignored)
        return cls(
            served, wanted, sampling, request.n, best_of, aim.times, request.partial_images, tokens, finish
        )

    @property
    def size(self) -> int:
        return len(self.wanted)

    @property
    def usage(self) -> dict[str, object]:
        """Tokens read and drawn."""
        return usage(self.tokens, self.size * self.served.cogview.text_to_image.format.codes)

    @property
    def picture_usage(self) -> dict[str, object]:
        """The same of one image."""
        return usage(self.tokens, self.best_of * self.served.cogview.text_to_image.format.codes)

    @property
    def key(self) -> Hashable:
        return self.served.name, self.sampling

    @property
    def kind(self) -> Hashable:
        return "generate", self.served.name, self.times, self.best_of

    @property
    def weight(self) -> int:
        return self.n

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Draw what these tickets want.

        Each gets a :class:`Partial` now and then, and a :class:`Made` as soon as an image is there.
        """
        cogview = self.served.cogview
        owners = [(ticket, place) for ticket in tickets for place in range(_job(ticket).size)]
        wanted = [_job(ticket).wanted[place] for ticket, place in owners]
        watch = _Watch(self.served, owners, cogview.text_to_image.format.codes)
        metrics = tickets[0].metrics
        metrics.observe("cogview_batch_pictures", len(wanted))
        candidates: dict[Ticket, list[GeneratedImage]] = {ticket: [] for ticket in tickets}
        drawn = cogview.text_to_image.run(wanted, self.sampling, progress=watch.progress, step_callback=watch)
        for (ticket, place), picture in zip(owners, drawn, strict=True):
            metrics.add("cogview_tokens_total", len(picture.codes), model=self.served.name)
            own = candidates[ticket]
            own.append(picture)
            job = _job(ticket)
            if job.best_of == 1 and job.times == 1:
                ticket.emit(Made(place, picture))
            elif len(own) == job.size and ticket.alive:
                for number, made in enumerate(job.chosen(own, watch.progress)):
                    ticket.emit(Made(number, made))
            if len(own) == job.size:
                metrics.add("cogview_pictures_total", job.n, model=self.served.name)
                ticket.end()

    def chosen(self, drawn: list[GeneratedImage], progress: ProgressCallback) -> list[GeneratedImage]:
        """The best of the candidates, enlarged as asked for."""
        cogview = self.served.cogview
        kept = drawn if self.best_of == 1 else cogview.captioning.best_of(drawn, self.n)
        return kept if self.times == 1 else cogview.upscale(kept, times=self.times, progress=progress)


def candidates(request: Painted, served: Served) -> int:
    """How many are drawn for each image: what is asked for, else what quality says and the model can."""
    if request.best_of is not None:
        return request.best_of
    return CANDIDATES[quality_told(request.quality)] if "score" in served.abilities else 1


def readable(request: Painted, prompt: str, served: Served, style: str | None, limit: int) -> str:
    """The prompt; cut to ``limit`` text tokens, style included, if the request or its client wants that."""
    cut = request.truncate
    if cut is None:
        cut = request.model is not None and is_openai_name(request.model)
    return served.cogview.text_to_image.truncated(prompt, style, limit) if cut and prompt.strip() else prompt


def _limit(cogview: Pipeline, times: int, best_of: int) -> int:
    """Text tokens that all read: what draws, what enlarges, what scores."""
    limits = [cogview.text_to_image.format.text_limit]
    if times > 1:
        limits.append(cogview.super_resolution.format.text_limit)
    if best_of > 1:
        limits.append(cogview.captioning.format.text_limit)
    return min(limits)


def _job(ticket: Ticket) -> Drawing:
    return cast(Drawing, ticket.job)


@dataclass
class _Watch:
    """Looks at each token: ends what nobody waits for, and shows images on their way."""

    served: Served
    owners: Sequence[tuple[Ticket, int]]
    total: int
    shown: dict[int, int] = field(default_factory=dict)

    def progress(self, done: int, total: int) -> None:
        """Raises Stopped when all clients are gone."""
        if not any(ticket.alive for ticket, _ in self.owners):
            raise Stopped
        for ticket, _ in self.owners:
            ticket.touch(done / total if total else None)

    def __call__(self, numbers: Sequence[int], codes: Tensor) -> None:
        drawn = codes.shape[1]
        for row, number in enumerate(numbers):
            ticket, place = self.owners[number]
            job, step = _job(ticket), self.shown.get(number, 0)
            if job.best_of > 1 or step >= job.partials or not ticket.alive:
                continue
            if drawn * (job.partials + 1) >= self.total * (step + 1) and drawn < self.total:
                cogview = self.served.cogview
                image = unfinished(cogview.image_tokenizer, codes[row], cogview.text_to_image.format.grid)
                ticket.emit(Partial(place, step, image))
                self.shown[number] = step + 1
