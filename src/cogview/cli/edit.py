"""``cogview edit``: part of a picture generated again by a sentence, the rest untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from cogview.cli.generate import BEST_OF
from cogview.cli.options import (
    DETERMINISTIC,
    MAX_BATCH,
    MODEL,
    NONE_GIVEN,
    SEED,
    STYLE,
    Decoded,
    Folder,
    Sampling,
    check_boxes,
    check_model,
    check_pictures,
    check_wishes,
    grouped,
)
from cogview.cli.output import Made, bar, batch_limit, check_folder
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.types import FEATHER


class Area(Config):
    """What of the picture is generated again, and how."""

    image: Path = option(..., "A picture of any format and size.", argument=True, metavar="IMAGE")
    prompt: str = option("", "What the whole picture shall show.", argument=True, metavar="PROMPT")
    mask: Path | None = option(
        None, "A picture of the same size: white is replaced, black stays.", metavar="FILE"
    )
    box: tuple[str, ...] = option(
        (),
        "A rectangle to replace, in pixels or %; may be repeated.",
        metavar="X0,Y0,X1,Y1",
        repeated=True,
    )
    vary: float | None = option(
        None, "Variations: another such share of the picture each time.", ge=0.01, le=1
    )
    order: Literal["together", "one_by_one"] = option(
        "together", "Regions at once, or one by one with all else in view; slower."
    )
    crop: Literal["auto", "whole", "tight"] = option(
        "auto",
        "What the model sees: a part at its own size, the whole picture, or for small regions an enlarged "
        "part (tight).",
    )
    feather: int = option(FEATHER, "Pixels inside the mask over which the new sets in.", ge=0, le=256)

    def check(self, best_of: int) -> None:
        """CogViewError for options that say nothing, or do not go together."""
        if self.vary is None:
            if not (self.mask or self.box):
                raise CogViewError("say what to replace: --mask FILE, --box X0,Y0,X1,Y1 or --vary SHARE")
            if not self.prompt.strip():
                raise CogViewError("the prompt is empty; say what the whole picture shall show")
            return
        if self.mask or self.box:
            raise CogViewError("--vary chooses what to replace itself; leave --mask and --box away")
        given = {"--order": self.order != "together", "--crop": self.crop != "auto"}
        given["--feather"] = self.feather != FEATHER
        if any(given.values()):
            names = ", ".join(name for name, here in given.items() if here)
            raise CogViewError(f"{names} are of masks and boxes; leave them away with --vary")
        if best_of > 1:
            raise CogViewError("variations need not fit a sentence; leave --best-of away")


class Results(Config):
    """How many results there are, and how they are generated."""

    n: int = option(1, "How many results.", "-n", ge=1)
    seed: int | None = SEED
    style: str | None = STYLE
    params: Sampling = NONE_GIVEN
    best_of: int = BEST_OF
    first_stage_only: bool = option(False, "Do not upscale what is drawn: faster, less sharp.")
    grid: bool = option(False, "Write a contact sheet too.")
    model: str = MODEL("pictogram-2")
    deterministic: bool = DETERMINISTIC
    place: Decoded = Decoded()
    max_batch: str | None = MAX_BATCH


@grouped()
def edit(area: Area, results: Results, output: Folder) -> None:
    """Edit part of a picture by a sentence.

    Examples:

      cogview edit cat.png --mask hat.png "a cat with a red hat" -n 4

      cogview edit cat.png --box 20,0,50,15 --box 60%,0,90%,20% "a cat with a red hat"

      cogview edit cat.png --vary 0.5 "a cat" -n 4

    Pixels outside the mask stay as they are. Every result is a PNG file with what made it inside.
    """
    area.check(results.best_of)
    image = area.image
    batch_size = batch_limit(results.max_batch)
    check_folder(output.out)
    check_pictures([image, *([area.mask] if area.mask else [])])
    family = check_model(results.model, "edit")
    check_wishes(family, results.seed, results.style)
    check_boxes(image, area.box)
    made = Made(output.out)
    pipeline = results.place.open(family, deterministic=results.deterministic)
    common: dict[str, Any] = {
        "n": results.n,
        "seed": results.seed,
        "style": results.style,
        "params": results.params,
        "first_stage_only": results.first_stage_only,
        "batch_size": batch_size,
    }
    with bar("editing" if area.vary is None else "varying") as show:
        if area.vary is not None:
            pictures = pipeline.vary(image, area.prompt, mask_ratio=area.vary, progress=show, **common)
        else:
            pictures = pipeline.edit(
                image,
                area.prompt,
                mask=area.mask,
                boxes=area.box,
                order=area.order,
                crop=area.crop,
                feather=area.feather,
                best_of=results.best_of,
                progress=show,
                **common,
            )
    kind = "edited" if area.vary is None else "varied"
    for own in pictures:
        made.keep(own, f"{image.stem}-{kind}-{own.seed}-{own.index:02d}")
    sheet = made.sheet(results.n) if results.grid else None
    first = pictures[0]
    made.report(
        output.as_json,
        sheet,
        image=str(image),
        prompt=first.prompt,
        seed=first.seed,
        settings=first.settings,
        pictures=[str(path) for _, path in made.pictures],
        grid=str(sheet) if sheet else None,
    )
