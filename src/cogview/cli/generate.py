"""``cogview generate``: images for prompts, each written to a file as soon as it is ready."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cogview.cli.options import DecodingOptions, OutputOptions, grouped
from cogview.cli.output import MAX_PROMPTS, SavedImages, bar, check_folder, print_json
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

NAME_LENGTH = 40  # characters of the prompt in a file name
IMAGE_SETTINGS = ("best_of", "fairness")  # settings that differ between images


class Prompts(Config):
    """The prompts, upscaling, and the contact sheet."""

    prompts: tuple[str, ...] = option(
        (), "What to generate, in Chinese or English.", argument=True, metavar="PROMPT..."
    )
    file: Path | None = option(None, "A text file with one prompt per line.", "--prompts", metavar="FILE")
    upscale: int | None = option(
        None, "Upscale each image, 2 or 4 times (see cogview upscale).", metavar="TIMES"
    )
    grid: bool = option(False, "Also write a contact sheet.")

    def texts(self) -> list[str]:
        """All prompts; raises CogViewError if there is none, or an empty one."""
        texts = list(self.prompts)
        if self.file:
            texts += read_lines(self.file, MAX_PROMPTS, "prompt")
        if not texts:
            raise CogViewError("give a prompt in quotes, or a file of prompts with --prompts")
        if not all(prompt.strip() for prompt in texts):
            raise CogViewError("the prompt is empty; describe the image to generate")
        return texts


class GenerationOptions(DecodingOptions):
    """The model with an optional adapter, and how it computes."""

    lora: str | None = option(
        None, "An adapter: the directory of its training run, or its name in the model.", metavar="DIR"
    )
    lora_strength: float = option(1.0, "Strength of the adapter; 0: none.")
    sparse: str | None = option(
        None, "Three-region sparse attention; the release uses 128,6,768.", metavar="WINDOW,TIMES,PIVOTS"
    )

    def open(self, family: ModelBundle, **options: Any) -> Pipeline:
        """Load the pipeline of a family, with the adapter."""
        regions = None if self.sparse is None else ThreeRegionConfig.parse(self.sparse)
        adapter = {"lora": self.lora, "lora_strength": self.lora_strength, "sparse": regions}
        return super().open(family, **adapter, **options)


@grouped()
def generate(
    prompts: Prompts,
    request: GenerateRequest,
    options: GenerationOptions,
    cluster: Cluster,
    output: OutputOptions,
) -> None:
    """Generate images.

    Each image is a PNG file that contains its prompt, seed, settings and model.
    With the same seed, image i is the same in any batch.
    If you stop early, finished images are kept.

    Examples:

      cogview generate "a blue monster, round eyes, red background" -n 4 --seed 7 -o out/ --grid

      cogview generate "一只猫" --style 3d --best-of 8 -o out/

      cogview generate --prompts prompts.txt --model pictogram-2 -o large/ --json

      cogview generate --prompts million.txt --ray auto -o large/
    """
    texts, batch_size, times = prompts.texts(), options.batch_size, prompts.upscale or 0
    cluster.check()
    check_folder(output.out)
    family = request.check(options.model, prompts.upscale)
    if options.lora is not None:
        family.adapter(options.lora)
    if options.sparse is not None:
        ThreeRegionConfig.parse(options.sparse)
    for line in family.unfamiliar(texts):
        typer.echo(line, err=True)
    if cluster.ray is not None:
        generate_on_cluster(prompts, request, options, cluster, output, family)
        return
    saved = SavedImages(output.out)
    pipeline = options.open(family)
    from cogview.pipelines.super_resolution import UpscaleQueue

    with bar() as show, saved.report_interrupt():
        codes = len(texts) * request.n * pipeline.text_to_image.format.codes
        parts = ProgressParts(show, codes * (request.best_of + times**2))

        def save(image: GeneratedImage) -> None:
            saved.save(image, name_for(image))

        queue = UpscaleQueue(pipeline, times, batch_size, parts, save) if times else None
        if queue:
            queue.check(texts, request.style)
        pipeline.generate(
            texts,
            **dict(request),
            batch_size=batch_size,
            progress=parts.part(codes * request.best_of),
            callback=queue.add if queue else save,
        )
        if queue:
            queue.finish()
    report(saved, saved.sheet(request.n) if prompts.grid else None, output.as_json)


def generate_on_cluster(
    prompts: Prompts,
    request: GenerateRequest,
    options: GenerationOptions,
    cluster: Cluster,
    output: OutputOptions,
    family: ModelBundle,
) -> None:
    """Generate parts of the images on the workers of a cluster, skipping parts that exist."""
    from cogview.pipelines.parts import PartWriter, generate_parts

    if prompts.grid:
        raise CogViewError("--grid: contact sheets are not supported with --ray; leave one of them out")
    started, texts = time.monotonic(), prompts.texts()
    without_effect = {"model", "max_batch", "place"}  # the images do not depend on these
    facts = options.model_dump(mode="json", exclude=without_effect) | {"precision": options.place.precision}
    facts |= {"model": family.hash, "upscale": prompts.upscale}
    open_model = partial(options.open, family)
    work = PartWriter(output.out, open_model, request, prompts.upscale or 0, options.batch_size)
    with bar("generating", "count") as show:
        plan = generate_parts(work, texts, facts, cluster.results, show)
    name, seconds = family.config.name, time.monotonic() - started
    if output.as_json:
        common = {"model": name, "model_hash": family.hash, "seconds": round(seconds, 3)}
        print_json({**common, "seed": plan.seed, "pictures": plan.images, "folder": str(output.out)})
    else:
        typer.echo(output.out)
        typer.echo(f"{plan.images:,} images in {seconds:.1f} s, seed {plan.seed}, model {name}", err=True)


def name_for(image: GeneratedImage) -> str:
    """File name without suffix: the start of the prompt, the seed and the index."""
    words = re.sub(r"[\W_]+", "-", image.prompt).strip("-")[:NAME_LENGTH].strip("-")
    return f"{words or 'picture'}-{image.seed}-{image.index:02d}"


def report(saved: SavedImages, sheet: Path | None, as_json: bool) -> None:
    """Print paths and a summary, or everything as JSON."""
    first = saved.images[0][0]
    saved.report(
        as_json,
        sheet,
        seed=first.seed,
        settings={name: value for name, value in first.settings.items() if name not in IMAGE_SETTINGS},
        pictures=[
            {"path": str(path), "prompt": image.prompt, "caption": image.caption, "index": image.index}
            | {name: value for name, value in image.settings.items() if name in IMAGE_SETTINGS}
            for image, path in saved.images
        ],
        grid=str(sheet) if sheet else None,
    )
