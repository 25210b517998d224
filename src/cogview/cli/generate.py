"""``cogview generate``: images for prompts, each in a file of its own as soon as it is ready."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogview.cli.options import Decoding, Folder, grouped
from cogview.cli.output import MAX_PROMPTS, Made, bar, check_folder, print_json
from cogview.config import Config, option
from cogview.errors import CogViewError
from cogview.files import read_lines
from cogview.pipelines.base import GeneratedImage, ProgressParts
from cogview.pipelines.task_requests import GenerateRequest
from cogview.ray_cluster import Cluster
from cogview.transformer.config import ThreeRegionConfig

if TYPE_CHECKING:
    from cogview.checkpoints.bundle import ModelBundle
    from cogview.pipelines.model import Pipeline

NAME_LENGTH = 40  # characters of a prompt in a file's name
OWN = ("best_of", "fairness")  # settings that differ from image to image


class Prompts(Config):
    """What is generated, and what is made of it."""

    prompts: tuple[str, ...] = option(
        (), "What to generate, in Chinese or English.", argument=True, metavar="PROMPT..."
    )
    file: Path | None = option(None, "A text file with a prompt on each line.", "--prompts", metavar="FILE")
    upscale: int | None = option(
        None, "Upscale each image, 2 or 4 times (see cogview upscale).", metavar="TIMES"
    )
    grid: bool = option(False, "Write a contact sheet too.")

    def texts(self) -> list[str]:
        """All prompts; CogViewError where there is none, or an empty one."""
        found = list(self.prompts)
        if self.file:
            found += read_lines(self.file, MAX_PROMPTS, "prompt")
        if not found:
            raise CogViewError("give a prompt in quotes, or a file of prompts with --prompts")
        if not all(prompt.strip() for prompt in found):
            raise CogViewError("the prompt is empty; say what to draw")
        return found


class Adapted(Decoding):
    """The model, and how it computes."""

    lora: str | None = option(
        None, "An adapter: a run that trained one, or its name in the model.", metavar="DIR"
    )
    lora_strength: float = option(1.0, "Strength of the adapter; 0: none.")
    sparse: str | None = option(
        None,
        "Generate with three-region sparse attention: 128,6,768 as released.",
        metavar="WINDOW,TIMES,PIVOTS",
    )

    def open(self, family: ModelBundle, **options: Any) -> Pipeline:
        """The model of a family with the adapter."""
        regions = None if self.sparse is None else ThreeRegionConfig.parse(self.sparse)
        own = {"lora": self.lora, "lora_strength": self.lora_strength, "sparse": regions}
        return super().open(family, **own, **options)


@grouped()
def generate(
    prompts: Prompts, request: GenerateRequest, opening: Adapted, cluster: Cluster, output: Folder
) -> None:
    """Generate images.

    Each is a PNG file that holds its prompt, seed, settings and model.
    With the same seed, image i is the same, alone or in any batch.
    If you stop early, the finished images stay.

    Examples:

      cogview generate "a blue monster, round eyes, red background" -n 4 --seed 7 -o out/ --grid

      cogview generate "一只猫" --style 3d --best-of 8 -o out/

      cogview generate --prompts prompts.txt --model pictogram-2 -o large/ --json

      cogview generate --prompts million.txt --ray auto -o large/
    """
    texts, batch_size, times = prompts.texts(), opening.batch_size, prompts.upscale or 0
    cluster.check()
    check_folder(output.out)
    family = request.check(opening.model, prompts.upscale)
    if opening.lora is not None:
        family.adapter(opening.lora)
    if opening.sparse is not None:
        ThreeRegionConfig.parse(opening.sparse)
    for line in family.unfamiliar(texts):
        typer.echo(line, err=True)
    if cluster.ray is not None:
        spread(prompts, request, opening, cluster, output, family)
        return
    made = Made(output.out)
    pipeline = opening.open(family)
    from cogview.pipelines.super_resolution import UpscaleQueue

    with bar() as show, made.counted():
        codes = len(texts) * request.n * pipeline.text_to_image.format.codes
        parts = ProgressParts(show, codes * (request.best_of + times**2))

        def keep(picture: GeneratedImage) -> None:
            made.keep(picture, name_for(picture))

        queue = UpscaleQueue(pipeline, times, batch_size, parts, keep) if times else None
        if queue:
            queue.check(texts, request.style)
        pipeline.generate(
            texts,
            **dict(request),
            batch_size=batch_size,
            progress=parts.part(codes * request.best_of),
            callback=queue.add if queue else keep,
        )
        if queue:
            queue.finish()
    report(made, made.sheet(request.n) if prompts.grid else None, output.as_json)


def spread(
    prompts: Prompts,
    request: GenerateRequest,
    opening: Adapted,
    cluster: Cluster,
    output: Folder,
    family: ModelBundle,
) -> None:
    """Generate in parts, on the workers of a cluster; parts that are there stay."""
    from cogview.pipelines.parts import PartWriter, generate_parts

    if prompts.grid:
        raise CogViewError("--grid: a contact sheet is not made with --ray; leave one of them out")
    started, texts = time.monotonic(), prompts.texts()
    ways = {"model", "max_batch", "place"}
    facts = opening.model_dump(mode="json", exclude=ways) | {"precision": opening.place.precision}
    facts |= {"model": family.hash, "upscale": prompts.upscale}
    open_model = partial(opening.open, family)
    work = PartWriter(output.out, open_model, request, prompts.upscale or 0, opening.batch_size)
    with bar("generating", "count") as show:
        plan = generate_parts(work, texts, facts, cluster.results, show)
    name, seconds = family.config.name, time.monotonic() - started
    if output.as_json:
        common = {"model": name, "model_hash": family.hash, "seconds": round(seconds, 3)}
        print_json({**common, "seed": plan.seed, "pictures": plan.images, "folder": str(output.out)})
    else:
        typer.echo(output.out)
        typer.echo(f"{plan.images:,} pictures in {seconds:.1f} s, seed {plan.seed}, model {name}", err=True)


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
