"""``cogview upscale``: any picture 2 or 4 times as large, its details drawn by the super-resolution model."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogview.cli.batches import MaxBatch, batch_limit
from cogview.cli.generate import check_folder, telling_what_is_done, write
from cogview.cli.opening import (
    DecodingOption,
    DeviceOption,
    Place,
    ThreadsOption,
    check_model,
    check_pictures,
    check_sampling,
    check_times,
    open_model,
)
from cogview.cli.precision import PrecisionOption
from cogview.cli.progress import bar
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.pipelines.output import GeneratedImage


def upscale(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Pictures of any format and shape.", show_default=False),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="What they show.", show_default="what a picture made here tells, else nothing"),
    ] = None,
    times: Annotated[int, typer.Option(help="How much longer sides get: 2 or 4.")] = 2,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pictures.")] = Path("out"),
    seed: Annotated[
        int | None,
        typer.Option(
            help="The same picture, prompt and seed give the same.", show_default="a new one each time"
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Read the picture with its shorter side at so many pixels first.",
            show_default="its own size, or the model's if that is larger",
        ),
    ] = None,
    faithful: Annotated[
        bool,
        typer.Option(
            "--faithful/--free",
            help="Draw by the given pixels too, and correct the result until it shrinks to them; or by the "
            "model alone.",
        ),
    ] = True,
    detail: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="With --faithful: how much of what was drawn to show, 0 (bicubic) to 1."
        ),
    ] = 0.6,
    model: Annotated[
        str, typer.Option(help="A model's name (see cogview models) or directory.")
    ] = "pictogram",
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 safer, above 1 wilder.", show_default="the model's")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Keep the k likeliest tokens; 0: all.", show_default="the model's")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Keep tokens up to this probability; 1: all.", show_default="the model's"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Above 1: closer to the prompt, in twice the time.", show_default="1"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
    precision: PrecisionOption = "fp32",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Exactly the same whatever else is drawn; slower.")
    ] = False,
    decoding: DecodingOption = "auto",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    max_batch: MaxBatch = None,
) -> None:
    """Enlarge pictures, drawing the details they do not show.

    Examples:

      cogview upscale cat.png --prompt "a cat" --times 4 -o out/

      cogview generate "a red apple" --seed 7 -o out/ && cogview upscale out/a-red-apple-7-00.png

    Every result is a PNG file, named as its original, with what made it inside.
    Transparency is laid over white; of an animation the first picture is taken.
    """
    if not images:
        raise CogViewError("give the pictures to enlarge")
    batch_size, place = batch_limit(max_batch), Place(device, threads, precision, decoding)
    check_folder(out)
    check_pictures(images)
    family = check_model(model, "upscale")
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "guidance": guidance}
    params = check_sampling(family, settings, seed)
    check_times(family, times)

    started = time.monotonic()
    cogview = open_model(family, place, deterministic=deterministic)
    made: list[tuple[GeneratedImage, Path]] = []

    def keep(picture: GeneratedImage) -> None:
        name = f"{images[len(made)].stem}-x{times}"
        made.append((picture, write(picture.png(), out, name)))

    with bar("upscaling") as show, telling_what_is_done(made, out):
        cogview.upscale(
            images,
            prompt,
            times=times,
            seed=seed,
            size=size,
            faithful=faithful,
            detail=detail,
            params=params,
            batch_size=batch_size,
            progress=show,
            callback=keep,
        )
    report(images, made, time.monotonic() - started, as_json)


def report(
    images: list[Path], made: list[tuple[GeneratedImage, Path]], seconds: float, as_json: bool
) -> None:
    """Paths on stdout and a summary on stderr, or everything as JSON."""
    if as_json:
        typer.echo(json.dumps(facts(images, made, seconds), indent=2, ensure_ascii=False))
        return
    for _, path in made:
        typer.echo(path)
    count = f"{len(made)} picture{'s' if len(made) > 1 else ''}"
    seeds = ", ".join(dict.fromkeys(str(picture.seed) for picture, _ in made))
    typer.echo(f"{count} in {seconds:.1f} s, seed {seeds}, model {made[0][0].model}", err=True)


def facts(images: list[Path], made: list[tuple[GeneratedImage, Path]], seconds: float) -> dict[str, Any]:
    """What ``--json`` prints."""
    first = made[0][0]
    return {
        "model": first.model,
        "model_hash": first.model_hash,
        "seconds": round(seconds, 3),
        "pictures": [
            {
                "path": str(path),
                "original": str(original),
                "prompt": picture.prompt,
                "seed": picture.seed,
                "width": picture.image.width,
                "height": picture.image.height,
                "settings": picture.settings,
            }
            for original, (picture, path) in zip(images, made, strict=True)
        ],
    }
