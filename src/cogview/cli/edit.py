"""``cogview edit``: part of a picture drawn anew by a sentence, the rest untouched."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cogview.cli.batches import MaxBatch, batch_limit
from cogview.cli.generate import check_folder, write, write_sheet
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
    from cogview.pipelines.output import GeneratedImage

Order = Literal["together", "one_by_one"]
Crop = Literal["auto", "whole", "tight"]

FEATHER = 4  # pixels; as in generation.editing, which would import NumPy


def edit(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A picture of any format and size.")],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="What the whole picture shall show.", show_default=False)
    ] = "",
    mask: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A picture of the same size: white is drawn anew, black stays."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1", help="A rectangle to draw anew, in pixels or %; may be repeated."
        ),
    ] = None,
    vary: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="Variations: another such share of the picture each time."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many results.")] = 1,
    seed: Annotated[
        int | None,
        typer.Option(help="Result i of a seed is always the same one.", show_default="a new one each time"),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for the pictures.")] = Path("out"),
    model: Annotated[
        str, typer.Option(help="A model's name (see cogview models) or directory.")
    ] = "pictogram-2",
    style: Annotated[str | None, typer.Option(help="A style of the model (see cogview models).")] = None,
    best_of: Annotated[
        int,
        typer.Option(
            min=1, metavar="K", help="Draw K for each result wanted, keep those the prompt describes best."
        ),
    ] = 1,
    order: Annotated[
        Order, typer.Option(help="Regions at once, or one by one with all else in view; slower.")
    ] = "together",
    crop: Annotated[
        Crop,
        typer.Option(
            help="What the model sees: a part at its own size, the whole picture, or for small regions an "
            "enlarged part (tight)."
        ),
    ] = "auto",
    feather: Annotated[
        int, typer.Option(min=0, max=256, help="Pixels inside the mask over which the new sets in.")
    ] = FEATHER,
    temperature: Annotated[
        float | None, typer.Option(help="Below 1 safer, above 1 wilder.", show_default="the model's")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Keep the k likeliest tokens; 0: all.", show_default="the model's")
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(help="Keep tokens up to this probability; 1 or 0: all.", show_default="the model's"),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Above 1: closer to the prompt, in twice the time.", show_default="the model's"),
    ] = None,
    clusters: Annotated[
        int | None, typer.Option(help="Keep the k likeliest clusters of codes.", show_default="the model's")
    ] = None,
    emphasis: Annotated[
        float | None, typer.Option(help="Added to attention towards the text.", show_default="the model's")
    ] = None,
    first_stage_only: Annotated[
        bool,
        typer.Option("--first-stage-only", help="Do not enlarge what is drawn: faster, less sharp."),
    ] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Write a contact sheet too.")] = False,
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
    """Draw part of a picture anew, by a sentence.

    Examples:

      cogview edit cat.png --mask hat.png "a cat with a red hat" -n 4

      cogview edit cat.png --box 20,0,50,15 --box 60%,0,90%,20% "a cat with a red hat"

      cogview edit cat.png --vary 0.5 "a cat" -n 4

    Pixels outside the mask stay as they are. Every result is a PNG file with what made it inside.
    """
    if vary is not None and (mask or box):
        raise CogViewError("--vary chooses what is drawn anew itself; leave --mask and --box away")
    if vary is None and not (mask or box):
        raise CogViewError("say what is drawn anew: --mask FILE, --box X0,Y0,X1,Y1 or --vary SHARE")
    if vary is None and not prompt.strip():
        raise CogViewError("the prompt is empty; say what the whole picture shall show")
    given = {"--order": order != "together", "--crop": crop != "auto", "--feather": feather != FEATHER}
    if vary is not None and any(given.values()):
        names = ", ".join(name for name, here in given.items() if here)
        raise CogViewError(f"{names} are of masks and boxes; leave them away with --vary")
    if vary is not None and best_of > 1:
        raise CogViewError("variations need not fit a sentence; leave --best-of away")
    batch_size, place = batch_limit(max_batch), Place(device, threads, precision, decoding)
    check_folder(out)
    check_pictures([image, *([mask] if mask else [])])
    settings = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "guidance": guidance,
        "clusters": clusters,
        "emphasis": emphasis,
    }
    family = check_model(model, "edit")
    params = check_sampling(family, settings, seed, style)
    check_boxes(image, box or ())
    started = time.monotonic()
    cogview = open_model(family, place, deterministic=deterministic)
    with bar("editing" if vary is None else "varying") as show:
        if vary is not None:
            pictures = cogview.vary(
                image,
                prompt,
                mask_ratio=vary,
                n=n,
                seed=seed,
                style=style,
                params=params,
                first_stage_only=first_stage_only,
                batch_size=batch_size,
                progress=show,
            )
        else:
            pictures = cogview.edit(
                image,
                prompt,
                mask=mask,
                boxes=box or (),
                n=n,
                seed=seed,
                style=style,
                order=order,
                crop=crop,
                feather=feather,
                params=params,
                first_stage_only=first_stage_only,
                best_of=best_of,
                batch_size=batch_size,
                progress=show,
            )
    kind = "edited" if vary is None else "varied"
    paths = [write(p.png(), out, f"{image.stem}-{kind}-{p.seed}-{p.index:02d}") for p in pictures]
    sheet = write_sheet(pictures, n, out) if grid else None
    report(image, pictures, paths, sheet, time.monotonic() - started, as_json)


def check_boxes(image: Path, boxes: Sequence[str]) -> None:
    """CogViewError for a box that is none, or does not lie in the picture."""
    from PIL import Image

    from cogview.generation.editing import mask_of_boxes, read_box

    if not boxes:
        return
    with Image.open(image) as file:
        turned = file.getexif().get(0x0112, 1) >= 5  # stored lying on its side
        size = file.size[::-1] if turned else file.size
    mask_of_boxes([read_box(box, size) for box in boxes], size)


def report(
    image: Path,
    pictures: Sequence[GeneratedImage],
    paths: Sequence[Path],
    sheet: Path | None,
    seconds: float,
    as_json: bool,
) -> None:
    """Paths on stdout and a summary on stderr, or everything as JSON."""
    first = pictures[0]
    if as_json:
        facts = {
            "image": str(image),
            "model": first.model,
            "model_hash": first.model_hash,
            "prompt": first.prompt,
            "seed": first.seed,
            "settings": first.settings,
            "seconds": round(seconds, 3),
            "pictures": [str(path) for path in paths],
            "grid": str(sheet) if sheet else None,
        }
        typer.echo(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    for path in [*paths, *([sheet] if sheet else [])]:
        typer.echo(path)
    count = f"{len(paths)} picture{'s' if len(paths) > 1 else ''}"
    typer.echo(f"{count} in {seconds:.1f} s, seed {first.seed}, model {first.model}", err=True)
