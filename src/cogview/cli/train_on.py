"""``cogview train-on``: a folder of pictures becomes a model that draws, in one command."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from cogview.cli.arguments import existing, model_name
from cogview.cli.data import BytesOption, PixelsOption, SecondsOption, limits_of
from cogview.cli.progress import bar


def train_on(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            callback=existing,
            help="Pictures, captioned or not: a folder, a table, an archive (see docs/data.md).",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="MODEL", help="The model's directory.", show_default=False)
    ],
    size: Annotated[
        Literal["tiny", "small", "base", "large"], typer.Option(help="tiny, small, base or large.")
    ] = "small",
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            callback=model_name,
            metavar="FAMILY",
            help="Go on from this model and its tokenizers: pictogram.",
        ),
    ] = None,
    lora: Annotated[
        int | None, typer.Option(help="With --from: train an adapter of this rank only.", min=1)
    ] = None,
    unnamed: Annotated[
        Literal["names", "skip"],
        typer.Option(help="Pictures without a caption: call them after their files, or leave them out."),
    ] = "names",
    column: Annotated[
        list[str] | None, typer.Option("--column", metavar="ROLE=NAME", help="As in cogview data.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(callback=existing, help="The folder of a table's pictures.")
    ] = None,
    caption: Annotated[
        list[str] | None,
        typer.Option("--caption", metavar="[LANG=]TEXT", help="One caption for every picture."),
    ] = None,
    translate: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Add Chinese captions, as in cogview data.")
    ] = None,
    max_bytes: BytesOption = None,
    max_pixels: PixelsOption = None,
    max_seconds: SecondsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order of the data and samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="STAGE.KEY=VALUE", help="transformer.steps=500, image_tokenizer.…"),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="For what is between (default: MODEL.work; may be removed after).")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only look, and say what would be done.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Forget an earlier run and begin anew.")] = False,
) -> None:
    """Train a model on your pictures.

    Looks at the data and says what each sample becomes and what it will cost, trains tokenizers and the
    model, measures, and writes a model that cogview generate draws with. Stop it with Ctrl-C at any moment;
    the same command goes on.

    Sizes: tiny, 36 px, minutes on a CPU core; small, 72 px, a quarter of an hour on two cores, for hundreds
    of drawings; base, the default model's, for thousands; large, 128 px, for a GPU.

    cogview train-on my-pictures/ --out models/mine --size tiny

    cogview train-on my-pictures/ --out models/mine --from pictogram --lora 8
    """
    from rich.console import Console

    from cogview.config import validate
    from cogview.training.train_on import run as room
    from cogview.training.train_on.settings import Settings

    fields = {
        "source": str(source),
        "size": size,
        "start": start,
        "lora": lora,
        "unnamed": unnamed,
        "columns": tuple(column or ()),
        "images": str(images) if images else None,
        "captions": _captions(caption or []),
        "translate": translate,
        "limits": limits_of(max_bytes, max_pixels, max_seconds),
        "seed": seed,
        "device": device,
        "overrides": tuple(overrides or ()),
    }
    settings = validate(Settings, fields, "train-on")
    if restart:
        room.restart(out, work)
    console = Console(stderr=True)
    job = room.TrainOn(settings, out, work, console, partial(bar, unit="count"))
    try:
        family = job.run("text" if plan else "model")
    except room.Stopped as stopped:
        again = shlex.join(["cogview", *(word for word in sys.argv[1:] if word != "--restart")])
        console.print(f"{stopped}: go on with: {again}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None  # there is no model yet: what was to follow must not
    if family is not None:
        typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]}")
        prompt = shlex.quote(job.state.survey.examples[0] if job.state.survey else "…")
        typer.echo(f"draw with it: cogview generate {prompt} --model {shlex.quote(str(out))} -n 4", err=True)


def _captions(given: list[str]) -> dict[str, tuple[str, ...]]:
    from cogview.cli.data import _captions as parse

    return {language: tuple(texts) for language, texts in parse(given).items()} if given else {}
