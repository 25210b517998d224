"""``cogview generate``: pictures for sentences, each in a file of its own as soon as it is ready."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cogview.cli.options import (
    DETERMINISTIC,
    MAX_BATCH,
    MODEL,
    NONE_GIVEN,
    SEED,
    STYLE,
    Ability,
    Decoded,
    Folder,
    Sampling,
    check_model,
    check_prompts,
    check_times,
    check_wishes,
    grouped,
    read_prompts,
    read_regions,
    tell_unfamiliar,
)
from cogview.cli.output import Made, bar, batch_limit, check_folder
from cogview.config import Config, option
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.base import GeneratedImage, ProgressParts
    from cogview.pipelines.model import Pipeline

NAME_LENGTH = 40  # characters of a prompt in a file's name
OWN = ("best_of", "fairness")  # settings that differ from picture to picture
UPSCALED = 8  # pictures upscaled together; they are written then

BEST_OF = option(
    1, "Make K for each picture wanted, keep those the prompt describes best.", metavar="K", ge=1
)


class Wanted(Config):
    """What is generated."""

    prompts: tuple[str, ...] = option(
        (), "What to draw, in Chinese or English.", argument=True, metavar="PROMPT..."
    )
    file: Path | None = option(None, "A text file with a prompt on each line.", "--prompts", metavar="FILE")
    n: int = option(1, "Pictures for each prompt.", "-n", ge=1, le=10_000)
    seed: int | None = SEED
    style: str | None = STYLE
    params: Sampling = NONE_GIVEN
    upscale: int | None = option(
        None, "Upscale each picture, 2 or 4 times (see cogview upscale).", metavar="TIMES"
    )
    best_of: int = BEST_OF
    fairness: str | None = option(
        None, "Add words about people by a table's proportions: a YAML file, or world.", metavar="TABLE"
    )
    first_stage_only: bool = option(
        False, "Models of several steps: leave pictures small.", "--first-stage-only", "--no-upscale"
    )
    truncate: bool = option(False, "The same: cut a prompt that is too long for a step.")
    grid: bool = option(False, "Write a contact sheet too.")

    def texts(self) -> list[str]:
        """All prompts; CogViewError where there is none, or an empty one."""
        found = [*self.prompts, *read_prompts(self.file)]
        if not found:
            raise CogViewError("give a prompt in quotes, or a file of prompts with --prompts")
        check_prompts(found)
        return found

    def check(self, model: str) -> ModelBundle:
        """The family; CogViewError where it cannot do what is wanted."""
        from cogview.generation.fairness import read_table

        needed: list[Ability] = ["generate"]
        needed += ["score"] if self.best_of > 1 else []
        needed += ["upscale"] if self.upscale is not None else []
        family = check_model(model, *needed)
        check_wishes(family, self.seed, self.style)
        if self.upscale is not None:
            check_times(family, self.upscale)
        if self.fairness is not None:
            read_table(self.fairness)
        if self.first_stage_only and "direct" not in family.config.roles:
            raise CogViewError(f"{model} draws in one step; leave out --first-stage-only")
        return family


class Opening(Config):
    """The model, and how it computes."""

    model: str = MODEL("pictogram")
    lora: str | None = option(
        None, "An adapter: a run that trained one, or its name in the model.", metavar="DIR"
    )
    lora_strength: float = option(1.0, "How much of the adapter; 0: nothing.")
    sparse: str | None = option(
        None,
        "Generate with three-region sparse attention: 128,6,768 as released.",
        metavar="WINDOW,TIMES,PIVOTS",
    )
    deterministic: bool = DETERMINISTIC
    place: Decoded = Decoded()
    max_batch: str | None = MAX_BATCH


@grouped()
def generate(wanted: Wanted, opening: Opening, output: Folder) -> None:
    """Draw pictures.

    Each is a PNG file with prompt, seed, settings and model inside.
    With the same seed, picture i is the same picture alone and among others.
    Stopped early, what is finished is there.

    Examples:

      cogview generate "a blue monster, round eyes, red background" -n 4 --seed 7 -o out/ --grid

      cogview generate "一只猫" --style 3d --best-of 8 -o out/

      cogview generate --prompts prompts.txt --model pictogram-2 -o large/ --json
    """
    texts, batch_size = wanted.texts(), batch_limit(opening.max_batch)
    check_folder(output.out)
    family = wanted.check(opening.model)
    if opening.lora is not None:
        family.adapter(opening.lora)
    regions = read_regions(opening.sparse)
    tell_unfamiliar(family, texts)
    from cogview.pipelines.base import ProgressParts

    made = Made(output.out)
    pipeline = opening.place.open(
        family,
        deterministic=opening.deterministic,
        lora=opening.lora,
        lora_strength=opening.lora_strength,
        sparse=regions,
    )
    if wanted.upscale is not None:
        check_lengths(pipeline, texts, wanted.style)
    with bar() as show, made.counted():
        codes = len(texts) * wanted.n * pipeline.text_to_image.format.codes
        times = wanted.upscale or 0
        parts = ProgressParts(show, codes * (wanted.best_of + times**2))
        waiting = Upscaling(pipeline, times, batch_size, parts, lambda own: made.keep(own, name_for(own)))
        pipeline.generate(
            texts,
            wanted.n,
            wanted.seed,
            params=wanted.params,
            style=wanted.style,
            best_of=wanted.best_of,
            fairness=wanted.fairness,
            first_stage_only=wanted.first_stage_only,
            truncate=wanted.truncate,
            batch_size=batch_size,
            progress=parts.part(codes * wanted.best_of),
            callback=waiting.add if times else waiting.keep,
        )
        waiting.finish()
    report(made, made.sheet(wanted.n) if wanted.grid else None, output.as_json)


def check_lengths(pipeline: Pipeline, texts: list[str], style: str | None) -> None:
    """CogViewError for a prompt that is too long for upscaling; before anything is generated."""
    from cogview.pipelines.base import encode_caption

    limit = pipeline.super_resolution.format.text_limit
    for request in pipeline.text_to_image.requests(texts, style=style):
        encode_caption(pipeline.components, request.caption, limit)


@dataclass
class Upscaling:
    """Pictures that wait to be upscaled, some at a time; then ``keep`` gets them."""

    pipeline: Pipeline
    times: int
    batch_size: int | None
    parts: ProgressParts
    keep: Callable[[GeneratedImage], None]
    waiting: list[GeneratedImage] = field(default_factory=list)

    def add(self, picture: GeneratedImage) -> None:
        """One more; enough are upscaled."""
        self.waiting.append(picture)
        if len(self.waiting) == UPSCALED:
            self.finish()

    def finish(self) -> None:
        """Upscale those that wait."""
        some, self.waiting = self.waiting, []
        if some:
            size = len(some) * self.pipeline.text_to_image.format.codes * self.times**2
            progress = self.parts.part(size)
            self.pipeline.upscale(
                some, times=self.times, batch_size=self.batch_size, progress=progress, callback=self.keep
            )


def name_for(picture: GeneratedImage) -> str:
    """The start of the prompt, the seed and the number, as a file name without its ending."""
    words = re.sub(r"[\W_]+", "-", picture.prompt).strip("-")[:NAME_LENGTH].strip("-")
    return f"{words or 'picture'}-{picture.seed}-{picture.index:02d}"


def report(made: Made, sheet: Path | None, as_json: bool) -> None:
    """Paths and a summary, or everything as JSON."""
    first = made.pictures[0][0]
    made.report(
        as_json,
        sheet,
        seed=first.seed,
        settings={name: value for name, value in first.settings.items() if name not in OWN},
        pictures=[
            {"path": str(path), "prompt": own.prompt, "caption": own.caption, "index": own.index}
            | {name: value for name, value in own.settings.items() if name in OWN}
            for own, path in made.pictures
        ],
        grid=str(sheet) if sheet else None,
    )
