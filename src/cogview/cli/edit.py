"""``cogview edit``: regenerate part of an image by a prompt, leaving the rest unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import DecodingOptions, OutputOptions, grouped
from cogview.cli.output import SavedImages, bar, check_folder
from cogview.config import Check, Config, option
from cogview.data.images import check_picture
from cogview.generation.editing import check_boxes
from cogview.pipelines.task_requests import EditRequest, ResultsRequest


class Input(Config):
    """The image to edit."""

    image: Annotated[Path, Check(check_picture)] = option(
        ..., "An image of any format and size.", argument=True, metavar="IMAGE"
    )
    prompt: str = option("", "What the entire image should show.", argument=True, metavar="PROMPT")
    vary: float | None = option(
        None, "Variations: regenerate this share of the image, a different part each time.", ge=0.01, le=1
    )


class Sheet(OutputOptions):
    """Where results are written."""

    grid: bool = option(False, "Also write a contact sheet.")


@grouped(model="pictogram-2")
def edit(
    args: Input, area: EditRequest, results: ResultsRequest, options: DecodingOptions, output: Sheet
) -> None:
    """Edit part of an image by a prompt.

    Examples:

      cogview edit cat.png --mask hat.png "a cat with a red hat" -n 4

      cogview edit cat.png --box 20,0,50,15 --box 60%,0,90%,20% "a cat with a red hat"

      cogview edit cat.png --vary 0.5 "a cat" -n 4

    Pixels outside the mask do not change. Every result is a PNG file that contains its settings.
    """
    if args.vary is None:
        area.check(args.prompt)
    else:
        area.check_unused()
    batch_size = options.batch_size
    check_folder(output.out)
    family = ModelBundle.find(options.model, "edit")
    family.config.style(results.style)
    check_boxes(args.image, area.boxes)
    saved, pipeline = SavedImages(output.out), options.open(family)
    with bar("editing" if args.vary is None else "varying") as show:
        common = {**dict(results), "batch_size": batch_size, "progress": show}
        if args.vary is None:
            images = pipeline.edit(args.image, args.prompt, **dict(area), **common)
        else:
            images = pipeline.vary(args.image, args.prompt, mask_ratio=args.vary, **common)
    kind = "edited" if args.vary is None else "varied"
    for image in images:
        saved.save(image, f"{args.image.stem}-{kind}-{image.seed}-{image.index:02d}")
    saved.report_results(args.image, saved.sheet(results.n) if output.grid else None, output.as_json)
