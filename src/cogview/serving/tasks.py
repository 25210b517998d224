"""What is asked with a picture: edits, variations, enlargements, captions, scores.

Each is computed alone, by the methods of the library that the command line uses.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cogview.errors import CogViewError, OutOfMemory
from cogview.generation.editing import mask_of_image
from cogview.pipelines.base import caption_for
from cogview.pipelines.model import Pipeline
from cogview.pipelines.output import Caption, GeneratedImage
from cogview.serving.errors import ApiError
from cogview.serving.schema import Captioning, Edit, Scoring, Upscaling, Variation
from cogview.serving.served import Served
from cogview.serving.worker import Made, Stopped, Ticket
from cogview.types import ProgressCallback as Progress

HALF = 128  # alpha below which a mask's pixel is open


@dataclass(frozen=True, eq=False)
class Call:
    """A computation of one request: ``work`` gets what to call with its progress and gives the results."""

    work: Callable[[Progress], Iterable[Any]]
    served: Served
    size: int = 1
    key: None = None

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Compute it; Stopped when its client is gone."""
        [ticket] = tickets

        def progress(done: int, total: int) -> None:
            if not ticket.alive:
                raise Stopped
            ticket.touch()

        for number, value in enumerate(self.work(progress)):
            ticket.emit(Made(number, value) if isinstance(value, GeneratedImage) else value)
            if isinstance(value, GeneratedImage):
                ticket.metrics.add("cogview_pictures_total", model=self.served.name)


def edit(request: Edit, served: Served, image: Image.Image, mask: Image.Image | None) -> Call:
    """The masked part drawn anew; ApiError for what is wrong before anything is queued."""
    cogview = _editor(served)
    _check(cogview, request.prompt, request.style)
    if mask is None and not request.box:
        raise ApiError(
            400, "say what is drawn anew: a mask, or a box", code="missing_parameter", param="mask"
        )
    hole = None if mask is None else mask_pixels(mask)

    def work(progress: Progress) -> list[GeneratedImage]:
        return cogview.edit(
            image,
            request.prompt,
            mask=hole,
            boxes=list(request.box),
            n=request.n,
            seed=request.seed,
            style=request.style,
            order=request.order,
            crop=request.crop,
            feather=request.feather,
            params=request.params,
            first_stage_only=request.first_stage_only,
            progress=progress,
        )

    return Call(work, served)


def vary(request: Variation, served: Served, image: Image.Image) -> Call:
    """Parts at random drawn anew."""
    cogview = _editor(served)
    if request.prompt.strip() or request.style is not None:
        _check(cogview, request.prompt, request.style)

    def work(progress: Progress) -> list[GeneratedImage]:
        return cogview.vary(
            image,
            request.prompt,
            mask_ratio=request.share,
            n=request.n,
            seed=request.seed,
            style=request.style,
            params=request.params,
            first_stage_only=request.first_stage_only,
            progress=progress,
        )

    return Call(work, served)


def upscale(request: Upscaling, served: Served, data: bytes) -> Call:
    """A picture's file enlarged; one that was made here tells its own prompt."""
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

    return Call(work, served)


def caption(request: Captioning, served: Served, images: list[Image.Image]) -> Call:
    """Captions of pictures: a list of (text, score, seed) for each."""

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

    return Call(work, served)


def score(request: Scoring, served: Served, images: list[Image.Image]) -> Call:
    """The caption loss of each text for each picture."""

    def work(progress: Progress) -> list[list[float]]:
        found: list[list[float]] = served.cogview.score(
            images, list(request.prompt), progress=progress
        ).tolist()
        return found

    return Call(work, served)


def mask_pixels(mask: Image.Image) -> NDArray[np.bool_]:
    """True where the picture is drawn anew: where a mask is transparent, or, if it is not, white."""
    if mask.mode == "RGBA":
        found: NDArray[np.bool_] = np.asarray(mask)[..., 3] < HALF
        if found.any():
            return found
    return mask_of_image(mask)


def _editor(served: Served) -> Pipeline:
    served.require("edit")
    return served.cogview


def _check(cogview: Pipeline, prompt: str, style: str | None) -> None:
    """ApiError for a prompt that is empty or too long, or a style there is not."""
    try:
        cogview.text_to_image.encode(caption_for(cogview.bundle.config, prompt, style))
    except CogViewError as error:
        raise ApiError(400, str(error), code="invalid_value", param="prompt") from error
