"""``cogview score``: how well texts describe pictures, as the caption model's loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.batches import MaxBatch, batch_limit
from cogview.cli.generate import read_prompts
from cogview.cli.opening import (
    DeviceOption,
    Place,
    ThreadsOption,
    check_model,
    check_pictures,
    open_model,
)
from cogview.cli.precision import PrecisionOption
from cogview.cli.progress import bar
from cogview.errors import CogViewError


def score(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE...", help="Pictures of any format and shape.", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text to score with every picture; may be repeated.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option("--texts", metavar="FILE", help="A text file with a text on each line.")
    ] = None,
    released: Annotated[
        bool, typer.Option("--released", help="The sum of log p, as CogView's released code has it.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="A model's name (see cogview models) or directory.")
    ] = "pictogram",
    as_json: Annotated[bool, typer.Option("--json", help="Print every number as JSON.")] = False,
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    max_batch: MaxBatch = None,
) -> None:
    """Caption losses of pictures and texts, in nats a token: low where the text describes the picture well.

    Examples:

      cogview score cat.png --text "a cat" --text "a red apple"

      cogview score *.png --texts captions.txt --json

    Printed are picture, loss and text, with tabs between them, pictures in order. The model needs a caption
    role.
    """
    words = [*(text or ()), *read_prompts(texts, "text")]
    if not images:
        raise CogViewError("give the pictures to score")
    if not words:
        raise CogViewError("give a text with --text, or a file of texts with --texts")
    batch_size, place = batch_limit(max_batch), Place(device, threads, precision)
    check_pictures(images)
    cogview = open_model(check_model(model, "score"), place)
    with bar("scoring") as show:
        table = cogview.score(list(images), words, released=released, batch_size=batch_size, progress=show)
    if as_json:
        facts = {
            "model": cogview.bundle.config.name,
            "model_hash": cogview.model_hash,
            "measure": measure(released),
            "images": [str(path) for path in images],
            "texts": words,
            "scores": table.tolist(),
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for path, row in zip(images, table.tolist(), strict=True):
        for one, value in zip(words, row, strict=True):
            typer.echo(f"{path}\t{value:.4f}\t{one}")


def measure(released: bool) -> str:
    """What a score is."""
    if released:
        return "sum of log p over the text's tokens; higher is better"
    return "caption loss, nats a token; lower is better"
