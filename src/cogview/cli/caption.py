"""``cogview caption``: what images show, in Chinese or English."""

from __future__ import annotations

from dataclasses import asdict

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import IMAGES, JSON, Opening, Pictures, grouped
from cogview.cli.output import bar, print_json
from cogview.config import Config
from cogview.errors import CogViewError
from cogview.pipelines.task_requests import CaptionRequest, Decoded


class Originals(Config):
    """What is described."""

    images: Pictures = IMAGES
    as_json: bool = JSON


class Writing(Opening):
    """The model, and how it computes."""

    place: Decoded = Decoded()


@grouped()
def caption(given: Originals, request: CaptionRequest, opening: Writing) -> None:
    """Describe images.

    Examples:

      cogview caption cat.png --lang en

      cogview caption *.png --lang zh -n 3 --temperature 0.8 --seed 7 --json

    Beam search gives the best captions first; with any sampling option captions are sampled instead.
    The model needs a caption role. With several images, each line is an image's name, a tab and the
    caption.
    """
    images, batch_size = list(given.images), opening.batch_size
    if not images:
        raise CogViewError("give the pictures to describe")
    family = ModelBundle.find(opening.model, "caption")
    pipeline = opening.place.open(family)
    with bar("writing") as show:
        found = pipeline.caption(images, **dict(request), batch_size=batch_size, progress=show)
    if given.as_json:
        own = {name: value for name, value in request if name not in ("n", "params")}
        settings = own | {name: getattr(request.params, name) for name in request.params.model_fields_set}
        if opening.place.decoding != "auto":
            settings["decoding"] = opening.place.decoding
        pictures = [
            {"path": str(path), "captions": [{**asdict(one), "pieces": one.pieces.tolist()} for one in own]}
            for path, own in zip(images, found, strict=True)
        ]
        print_json(
            {
                "model": family.config.name,
                "model_hash": pipeline.model_hash,
                "settings": {name: value for name, value in settings.items() if value is not None},
                "pictures": pictures,
            }
        )
        return
    for path, captions in zip(images, found, strict=True):
        for one in captions:
            typer.echo(one.text if len(images) == 1 else f"{path}\t{one.text}")
