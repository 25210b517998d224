"""``cogview edit``: part of an image generated again by a prompt, the rest untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import Decoding, Folder, grouped
from cogview.cli.output import Made, bar, check_folder
from cogview.config import Check, Config, option
from cogview.data.images import check_picture
from cogview.generation.editing import check_boxes
from cogview.pipelines.task_requests import EditRequest, ResultsRequest


class Picture(Config):
    """What is edited."""

    image: Annotated[Path, Check(check_picture)] = option(
        ..., "An image of any format and size.", argument=True, metavar="IMAGE"
    )
    prompt: str = option("", "What the whole image should show.", argument=True, metavar="PROMPT")
    vary: float | None = option(
        None, "Variations: generate this share of the image again, another part each time.", ge=0.01, le=1
    )


class Sheet(Folder):
    """Where results go."""

    grid: bool = option(False, "Write a contact sheet too.")


@grouped(model="pictogram-2")
def edit(
    given: Picture, area: EditRequest, results: ResultsRequest, opening: Decoding, output: Sheet
) -> None:
    """Edit part of an image by a prompt.

    Examples:

      cogview edit cat.png --mask hat.png "a cat with a red hat" -n 4

      cogview edit cat.png --box 20,0,50,15 --box 60%,0,90%,20% "a cat with a red hat"

      cogview edit cat.png --vary 0.5 "a cat" -n 4

    Pixels outside the mask stay as they are. Every result is a PNG file that holds its settings.
    """
    if given.vary is None:
        area.check(given.prompt)
    else:
        area.check_unused()
    batch_size = opening.batch_size
    check_folder(output.out)
    family = ModelBundle.find(opening.model, "edit")
    family.config.style(results.style)
    check_boxes(given.image, area.boxes)
    made, pipeline = Made(output.out), opening.open(family)
    with bar("editing" if given.vary is None else "varying") as show:
        common = {**dict(results), "batch_size": batch_size, "progress": show}
        if given.vary is None:
            pictures = pipeline.edit(given.image, given.prompt, **dict(area), **common)
        else:
            pictures = pipeline.vary(given.image, given.prompt, mask_ratio=given.vary, **common)
    kind = "edited" if given.vary is None else "varied"
    for own in pictures:
        made.keep(own, f"{given.image.stem}-{kind}-{own.seed}-{own.index:02d}")
    made.report_results(given.image, made.sheet(results.n) if output.grid else None, output.as_json)
