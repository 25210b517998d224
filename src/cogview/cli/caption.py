"""``cogview caption``: describe images in Chinese or English."""

from __future__ import annotations

from dataclasses import asdict

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import IMAGES, JSON, ImagePaths, ModelOptions, grouped
from cogview.cli.output import bar, print_json
from cogview.config import Config
from cogview.errors import CogViewError
from cogview.pipelines.task_requests import CaptionRequest, DecodeOptions


class Inputs(Config):
    """The images to describe."""

    images: ImagePaths = IMAGES
    as_json: bool = JSON


class CaptionModelOptions(ModelOptions):
    """Which model to use, and how it computes."""

    place: DecodeOptions = DecodeOptions()


@grouped()
def caption(args: Inputs, request: CaptionRequest, options: CaptionModelOptions) -> None:
    """Describe images.

    Examples:

      cogview caption cat.png --lang en

      cogview caption *.png --lang zh -n 3 --temperature 0.8 --seed 7 --json

    Beam search finds the most likely captions, the best first; with any sampling option, captions are sampled
    instead. The model needs a caption role. With several images, each line is the name of an image, a tab
    and a caption.
    """
    images, batch_size = list(args.images), options.batch_size
    if not images:
        raise CogViewError("give the images to describe")
    family = ModelBundle.find(options.model, "caption")
    pipeline = options.place.open(family)
    with bar("captioning") as show:
        captions = pipeline.caption(images, **dict(request), batch_size=batch_size, progress=show)
    if args.as_json:
        settings = {name: value for name, value in request if name not in ("n", "params")}
        settings |= {name: getattr(request.params, name) for name in request.params.model_fields_set}
        if options.place.decoding != "auto":
            settings["decoding"] = options.place.decoding
        pictures = [
            {"path": str(path), "captions": [{**asdict(x), "pieces": x.pieces.tolist()} for x in of_image]}
            for path, of_image in zip(images, captions, strict=True)
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
    for path, of_image in zip(images, captions, strict=True):
        for item in of_image:
            typer.echo(item.text if len(images) == 1 else f"{path}\t{item.text}")
