"""Text-to-image jobs of the worker, for one request or several in a batch.

Requests for the same model with the same sampling parameters are computed in one batch. Each image has its
own random stream, so batching does not change it (to rounding; bit for bit in the deterministic mode).
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
from cogview.serving.openai.fields import CANDIDATES, reported_quality
from cogview.serving.openai.names import is_openai_name
from cogview.serving.openai.postprocess import Postprocess, usage
from cogview.serving.openai.sizes import target_size
from cogview.serving.pictures import partial_image
from cogview.serving.schema import Generation, PromptedRequest
from cogview.serving.served import ServedModel
from cogview.serving.worker import FinishedImage, Stopped, Ticket
from cogview.types import ProgressCallback, SamplingParams


@dataclass(frozen=True)
class PartialImage:
    """An unfinished image (RGBA).

    number: its index in the request; step: number of partial images of it that were sent before.
    """

    number: int
    step: int
    image: Image.Image


@dataclass(frozen=True, eq=False)
class GenerationJob:
    """The job of one validated request for images.

    requests: the images to generate, ``best_of`` candidates for each of the ``n``; times: upscaling factor
    of the result, relative to the model's smallest size; partials: number of partial images to send of each
    image; tokens: number of text tokens of the prompt; postprocess: applied to each finished image.
    """

    served: ServedModel
    requests: list[GenerationRequest]
    sampling: SamplingParams
    n: int
    best_of: int
    times: int
    partials: int
    tokens: int
    postprocess: Postprocess = field(default_factory=Postprocess)

    @classmethod
    def of(cls, request: Generation, served: ServedModel) -> GenerationJob:
        """The job of a request; raises ApiError for invalid values, before anything is queued."""
        served.require("generate")
        cogview = served.cogview
        target = target_size(served, request.size, request.quality)
        style, ignored = request.effective_style(cogview.styles), request.ignored_fields(cogview.styles)
        best_of = candidates_per_image(request, served)
        if best_of > 1:
            served.require("score")
        part = cogview.text_to_image
        try:
            sampling = cogview.bundle.config.sampling("generate", request.params, style)
            if sampling.clusters and part.engine.clusters is None:
                raise CogViewError(
                    "this model has no clusters of image codes; leave clusters out", field="clusters"
                )
            if request.negative_prompt and sampling.guidance_scale == 1:
                ignored.append("negative_prompt")
            limit = _text_limit(cogview, target.times, best_of)
            prompt = truncated(request, request.prompt, served, style, limit)
            negative = request.negative_prompt and truncated(
                request, request.negative_prompt, served, None, limit
            )
            ignored += ["prompt (its end)"] if prompt != request.prompt else []
            ignored += ["negative_prompt (its end)"] if negative != request.negative_prompt else []
            requests = part.requests(
                prompt,
                request.n,
                request.seed,
                style=style,
                first=request.first,
                best_of=best_of,
                negative_prompt=negative,
            )
            tokens = len(encode_caption(cogview.components, requests[0].caption, limit))
        except CogViewError as error:
            raise ApiError(400, str(error), code="invalid_value", param=error.field) from error
        postprocess = Postprocess.of(request, target.size, ignored)
        times, partials = target.times, request.partial_images
        return cls(served, requests, sampling, request.n, best_of, times, partials, tokens, postprocess)

    @property
    def size(self) -> int:
        return len(self.requests)

    @property
    def usage(self) -> dict[str, object]:
        """Token counts of the request."""
        return usage(self.tokens, self.size * self.served.cogview.text_to_image.format.codes)

    @property
    def image_usage(self) -> dict[str, object]:
        """Token counts of one image."""
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
        """Generate the images of these tickets in one batch.

        Emits :class:`PartialImage` events during generation and a :class:`FinishedImage` for each image as
        soon as it is ready.
        """
        cogview = self.served.cogview
        owners = [(ticket, number) for ticket in tickets for number in range(_job(ticket).size)]
        requests = [_job(ticket).requests[number] for ticket, number in owners]
        monitor = _Monitor(self.served, owners, cogview.text_to_image.format.codes)
        metrics = tickets[0].metrics
        metrics.observe("cogview_batch_pictures", len(requests))
        candidates: dict[Ticket, list[GeneratedImage]] = {ticket: [] for ticket in tickets}
        images = cogview.text_to_image.run(
            requests, self.sampling, progress=monitor.progress, step_callback=monitor
        )
        for (ticket, number), image in zip(owners, images, strict=True):
            metrics.add("cogview_tokens_total", len(image.codes), model=self.served.name)
            of_ticket = candidates[ticket]
            of_ticket.append(image)
            job = _job(ticket)
            if job.best_of == 1 and job.times == 1:
                ticket.emit(FinishedImage(number, image))
            elif len(of_ticket) == job.size and ticket.alive:
                for index, result in enumerate(job.select_and_upscale(of_ticket, monitor.progress)):
                    ticket.emit(FinishedImage(index, result))
            if len(of_ticket) == job.size:
                metrics.add("cogview_pictures_total", job.n, model=self.served.name)
                ticket.end()

    def select_and_upscale(
        self, candidates: list[GeneratedImage], progress: ProgressCallback
    ) -> list[GeneratedImage]:
        """The ``n`` best of the candidates, upscaled by ``times``."""
        cogview = self.served.cogview
        selected = candidates if self.best_of == 1 else cogview.captioning.best_of(candidates, self.n)
        return selected if self.times == 1 else cogview.upscale(selected, times=self.times, progress=progress)


def candidates_per_image(request: PromptedRequest, served: ServedModel) -> int:
    """The request's ``best_of``; without it, as ``quality`` implies if the model can score images, else 1."""
    if request.best_of is not None:
        return request.best_of
    return CANDIDATES[reported_quality(request.quality)] if "score" in served.abilities else 1


def truncated(
    request: PromptedRequest, prompt: str, served: ServedModel, style: str | None, limit: int
) -> str:
    """The prompt, truncated to ``limit`` text tokens (style included) if the request says so.

    The default is to truncate for OpenAI's model names only.
    """
    truncate = request.truncate
    if truncate is None:
        truncate = request.model is not None and is_openai_name(request.model)
    if not truncate or not prompt.strip():
        return prompt
    return served.cogview.text_to_image.truncated(prompt, style, limit)


def _text_limit(cogview: Pipeline, times: int, best_of: int) -> int:
    """Longest text, in tokens, that all models of the request accept: base, super-resolution, captioning."""
    limits = [cogview.text_to_image.format.text_limit]
    if times > 1:
        limits.append(cogview.super_resolution.format.text_limit)
    if best_of > 1:
        limits.append(cogview.captioning.format.text_limit)
    return min(limits)


def _job(ticket: Ticket) -> GenerationJob:
    return cast(GenerationJob, ticket.job)


@dataclass
class _Monitor:
    """Called after each token: stops the batch when all clients are gone, and emits partial images.

    owners: ticket and index in its request, for each row of the batch; total: codes of an image; sent:
    number of partial images sent, by row.
    """

    served: ServedModel
    owners: Sequence[tuple[Ticket, int]]
    total: int
    sent: dict[int, int] = field(default_factory=dict)

    def progress(self, done: int, total: int) -> None:
        """Record progress; raises Stopped when all clients are gone."""
        if not any(ticket.alive for ticket, _ in self.owners):
            raise Stopped
        for ticket, _ in self.owners:
            ticket.touch(done / total if total else None)

    def __call__(self, numbers: Sequence[int], codes: Tensor) -> None:
        generated = codes.shape[1]
        for row, number in enumerate(numbers):
            ticket, index = self.owners[number]
            job, step = _job(ticket), self.sent.get(number, 0)
            if job.best_of > 1 or step >= job.partials or not ticket.alive:
                continue
            if generated * (job.partials + 1) >= self.total * (step + 1) and generated < self.total:
                cogview = self.served.cogview
                image = partial_image(cogview.image_tokenizer, codes[row], cogview.text_to_image.format.grid)
                ticket.emit(PartialImage(index, step, image))
                self.sent[number] = step + 1
