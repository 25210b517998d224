"""Pictures for sentences: what the worker computes for one request, or for several at once.

Requests for the same model with the same sampling settings are drawn in one batch. Each picture has its own
random stream, so it is the one that it is alone (to rounding; exactly in the deterministic mode).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from PIL import Image
from torch import Tensor

from cogview.describing import checked_seed
from cogview.errors import CogViewError
from cogview.generation.engine import Progress
from cogview.generation.roles import CAPTION, UPSCALING
from cogview.generation.settings import Sampling
from cogview.hierarchy import DIRECT, Hierarchy
from cogview.pipeline import Picture, Wanted
from cogview.sequences import SequenceFormat
from cogview.serving.errors import ApiError
from cogview.serving.pictures import unfinished
from cogview.serving.schema import Generation
from cogview.serving.served import Served
from cogview.serving.worker import Made, Stopped, Ticket


@dataclass(frozen=True)
class Partial:
    """A picture on its way: which one of the request, how many came of it before, what is there (RGBA)."""

    number: int
    step: int
    image: Image.Image


@dataclass(frozen=True, eq=False)
class Drawing:
    """One request for pictures, checked.

    wanted: what is drawn, ``best_of`` candidates for each of the ``n``; times: how often the result is the
    smallest size; partials: pictures on their way to show; tokens: of the prompt.
    """

    served: Served
    wanted: list[Wanted]
    sampling: Sampling
    n: int
    best_of: int
    times: int
    partials: int
    tokens: int

    @classmethod
    def of(cls, request: Generation, served: Served) -> Drawing:
        """The drawing of a request; ApiError for what it names wrongly, before anything is queued."""
        served.require("generate")
        cogview, times = served.cogview, served.times(request.size)
        if request.best_of > 1:
            served.require("score")
        try:
            seed = checked_seed(request.seed)
            sampling = cogview.sampling_for(request.settings, request.style)
            if sampling.clusters and cogview.engine.clusters is None:
                raise CogViewError("this model has no clusters of image codes; leave clusters away")
            indices = range(request.first, request.first + request.n * request.best_of)
            wanted = [cogview.wanted(request.prompt, seed, index, request.style) for index in indices]
            tokens = len(cogview.encode(wanted[0].caption))
            cls._check_lengths(served, wanted[0].caption, times, request.best_of)
        except CogViewError as error:
            raise ApiError(400, str(error), code="invalid_value", param=_field(str(error))) from error
        return cls(
            served, wanted, sampling, request.n, request.best_of, times, request.partial_images, tokens
        )

    @staticmethod
    def _check_lengths(served: Served, caption: str, times: int, best_of: int) -> None:
        """A caption has to fit what enlarges and what scores, too."""
        roles = served.cogview.family.config.roles
        needed = ([DIRECT if served.enlarges else UPSCALING] if times > 1 else []) + [CAPTION] * (best_of > 1)
        for name in needed:
            if name in roles:
                served.cogview.encode(caption, cast(SequenceFormat, roles[name].sequences))

    @property
    def size(self) -> int:
        return len(self.wanted)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens read and drawn."""
        drawn = self.size * len(self.served.cogview.form.code_positions(0))
        return {"input_tokens": self.tokens, "output_tokens": drawn, "total_tokens": self.tokens + drawn}

    @property
    def key(self) -> Hashable:
        return self.served.name, self.sampling

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Draw what these tickets want.

        Each gets a :class:`Partial` now and then, and a :class:`Made` as soon as a picture is there.
        """
        cogview = self.served.cogview
        owners = [(ticket, place) for ticket in tickets for place in range(_job(ticket).size)]
        wanted = [_job(ticket).wanted[place] for ticket, place in owners]
        watch = _Watch(self.served, owners, len(cogview.form.code_positions(0)))
        metrics = tickets[0].metrics
        metrics.observe("cogview_batch_pictures", len(wanted))
        candidates: dict[Ticket, list[Picture]] = {ticket: [] for ticket in tickets}
        drawn = cogview.draw_wanted(wanted, self.sampling, progress=watch.progress, watch=watch)
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

    def chosen(self, drawn: list[Picture], progress: Progress) -> Iterator[Picture]:
        """The best of the candidates, enlarged as asked for."""
        cogview = self.served.cogview
        kept = drawn if self.best_of == 1 else cogview.best_of(drawn, self.n)
        if self.times == 1:
            return iter(kept)
        if isinstance(cogview, Hierarchy) and self.served.enlarges:
            return cogview.enlarge(kept, progress=progress)
        return iter(cogview.upscale(kept, times=self.times, progress=progress))


def _job(ticket: Ticket) -> Drawing:
    return cast(Drawing, ticket.job)


def _field(message: str) -> str | None:
    """The field an error of the pipeline is about, as far as its words say it."""
    for word, name in (("prompt", "prompt"), ("style", "style"), ("clusters", "clusters"), ("seed", "seed")):
        if word in message:
            return name
    return None


@dataclass
class _Watch:
    """Looks at each token: ends what nobody waits for, and shows pictures on their way."""

    served: Served
    owners: Sequence[tuple[Ticket, int]]
    total: int
    shown: dict[int, int] = field(default_factory=dict)

    def progress(self, done: int, total: int) -> None:
        """Raises Stopped when all clients are gone."""
        if not any(ticket.alive for ticket, _ in self.owners):
            raise Stopped
        for ticket, _ in self.owners:
            ticket.touch()

    def __call__(self, numbers: Sequence[int], codes: Tensor) -> None:
        drawn = codes.shape[1]
        for row, number in enumerate(numbers):
            ticket, place = self.owners[number]
            job, step = _job(ticket), self.shown.get(number, 0)
            if job.best_of > 1 or step >= job.partials or not ticket.alive:
                continue
            if drawn * (job.partials + 1) >= self.total * (step + 1) and drawn < self.total:
                cogview = self.served.cogview
                image = unfinished(cogview.images, codes[row], cogview.form.grid)
                ticket.emit(Partial(place, step, image))
                self.shown[number] = step + 1
