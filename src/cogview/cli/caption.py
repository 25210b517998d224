"""``cogview caption``: what pictures show, in Chinese or English."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cogview.cli.options import (
    IMAGES,
    JSON,
    MAX_BATCH,
    MODEL,
    NONE_GIVEN,
    Decoded,
    Fields,
    check_model,
    check_pictures,
    check_wishes,
    grouped,
)
from cogview.cli.output import bar, batch_limit, print_json
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.types import SamplingParams

Params = Annotated[SamplingParams, Fields("temperature", "top_k", "top_p", shown="beams")]


class Wanted(Config):
    """What captions are like: sampled, where a seed or a sampling option is given, else found by beams."""

    images: tuple[Path, ...] = IMAGES
    lang: Literal["zh", "en"] | None = option(None, "Keep to this language.", shown="whichever comes")
    n: int = option(1, "Captions for each picture.", "-n", ge=1)
    beams: int | None = option(None, "Captions followed at once.", shown="4, or n", ge=1)
    seed: int | None = option(None, "Sample; caption i of a seed is always the same.", shown="beams")
    params: Params = NONE_GIVEN
    max_length: int | None = option(None, "The most tokens.", shown="what the model reads", ge=1)
    model: str = MODEL("pictogram")
    as_json: bool = JSON
    place: Decoded = Decoded()
    max_batch: str | None = MAX_BATCH

    def options(self) -> dict[str, Any]:
        """As the pipeline takes them."""
        own = {"language": self.lang, "beams": self.beams, "seed": self.seed}
        sampling = {name: getattr(self.params, name) for name in self.params.model_fields_set}
        return {**own, **sampling, "max_length": self.max_length}


@grouped()
def caption(wanted: Wanted) -> None:
    """Describe pictures.

    Examples:

      cogview caption cat.png --lang en

      cogview caption *.png --lang zh -n 3 --temperature 0.8 --seed 7 --json

    Beams give the best captions first; any sampling option draws them by chance instead.
    The model needs a caption role. Several pictures are told apart by their names, a tab before the caption.
    """
    images = wanted.images
    if not images:
        raise CogViewError("give the pictures to describe")
    batch_size = batch_limit(wanted.max_batch)
    check_pictures(images)
    family = check_model(wanted.model, "caption")
    check_wishes(family, wanted.seed)
    pipeline, options = wanted.place.open(family), wanted.options()
    with bar("writing") as show:
        found = pipeline.caption(list(images), wanted.n, batch_size=batch_size, progress=show, **options)
    if wanted.as_json:
        decoding = wanted.place.decoding
        settings = options | ({} if decoding == "auto" else {"decoding": decoding})
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
    for path, own in zip(images, found, strict=True):
        for one in own:
            typer.echo(one.text if len(images) == 1 else f"{path}\t{one.text}")
