"""``cogview caption``: what pictures show, in Chinese or English."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cogview.cli.batches import MaxBatch, batch_limit
from cogview.cli.opening import (
    DecodingOption,
    DeviceOption,
    Place,
    ThreadsOption,
    check_model,
    check_pictures,
    check_sampling,
    open_model,
)
from cogview.cli.precision import PrecisionOption
from cogview.cli.progress import bar
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.pipelines.model import Pipeline
    from cogview.pipelines.output import Caption


def caption(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Pictures of any format and shape.", show_default=False),
    ] = None,
    lang: Annotated[
        Literal["zh", "en"] | None,
        typer.Option(help="Keep to this language.", show_default="whichever comes"),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Captions for each picture.")] = 1,
    beams: Annotated[
        int | None, typer.Option(min=1, help="Captions followed at once.", show_default="4, or n")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw by chance; caption i of a seed is always the same.", show_default="beams"),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Draw by chance; below 1 safer, above 1 wilder.", show_default="1")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Draw by chance among the k likeliest tokens.", show_default="all")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Draw by chance among tokens up to this probability.", show_default="all"),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=1, help="The most tokens.", show_default="what the model reads")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A model's name (see cogview models) or directory.")
    ] = "pictogram",
    as_json: Annotated[bool, typer.Option("--json", help="Print captions and settings as JSON.")] = False,
    precision: PrecisionOption = "fp32",
    decoding: DecodingOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    max_batch: MaxBatch = None,
) -> None:
    """Describe pictures.

    Examples:

      cogview caption cat.png --lang en

      cogview caption *.png --lang zh -n 3 --temperature 0.8 --seed 7 --json

    Beams give the best captions first; any sampling option draws them by chance instead.
    The model needs a caption role. Several pictures are told apart by their names, a tab before the caption.
    """
    if not images:
        raise CogViewError("give the pictures to describe")
    batch_size, place = batch_limit(max_batch), Place(device, threads, precision, decoding)
    check_pictures(images)
    family = check_model(model, "caption")
    check_sampling(family, {"temperature": temperature, "top_k": top_k, "top_p": top_p}, seed)
    cogview = open_model(family, place)
    options: dict[str, Any] = {
        "language": lang,
        "beams": beams,
        "seed": seed,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "max_length": max_length,
    }
    with bar("writing") as show:
        found = cogview.caption(list(images), n, batch_size=batch_size, progress=show, **options)
    if as_json:
        typer.echo(
            json.dumps(
                facts(cogview, images, found, options | {"decoding": decoding}), indent=2, ensure_ascii=False
            )
        )
        return
    for path, own in zip(images, found, strict=True):
        for one in own:
            typer.echo(one.text if len(images) == 1 else f"{path}\t{one.text}")


def facts(
    cogview: Pipeline, images: list[Path], found: list[list[Caption]], options: dict[str, Any]
) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "model": cogview.bundle.config.name,
        "model_hash": cogview.model_hash,
        "settings": {name: value for name, value in options.items() if value is not None},
        "pictures": [
            {"path": str(path), "captions": [{**asdict(one), "pieces": one.pieces.tolist()} for one in own]}
            for path, own in zip(images, found, strict=True)
        ],
    }
