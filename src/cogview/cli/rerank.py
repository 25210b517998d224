"""``cogview score`` and ``cogview rerank``: how well texts describe images, by the caption model's loss."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import IMAGES, JSON, ImagePaths, ModelOptions, grouped
from cogview.cli.output import MAX_PROMPTS, bar, check_folder, print_json, writing
from cogview.config import Config, option
from cogview.data.images import check_picture
from cogview.errors import CogViewError
from cogview.files import read_lines
from cogview.pipelines.base import Ranked


class Scoring(ModelOptions):
    """The model, and how scores are computed."""

    released: bool = option(False, "Score by the sum of log p, as CogView's released code does.")
    as_json: bool = JSON

    def report(self, family: ModelBundle, **facts: object) -> None:
        """Print the result as JSON."""
        measure = "caption loss, nats a token; lower is better"
        if self.released:
            measure = "sum of log p over the text's tokens; higher is better"
        common = {"model": family.config.name, "model_hash": family.hash, "measure": measure}
        print_json(common | facts)


class Texts(Config):
    """The images and texts to score."""

    images: ImagePaths = IMAGES
    text: tuple[str, ...] = option((), "A text to score with every image; may be repeated.", repeated=True)
    texts: Path | None = option(None, "A file with one text per line.", metavar="FILE")


@grouped()
def score(args: Texts, scoring: Scoring) -> None:
    """Compute caption losses of images and texts, in nats per token: low if the text describes the image
    well.

    Examples:

      cogview score cat.png --text "a cat" --text "a red apple"

      cogview score *.png --texts captions.txt --json

    Prints image, loss and text, separated by tabs, in the order of the images. The model needs a caption
    role.
    """
    images, texts = list(args.images), list(args.text)
    texts += read_lines(args.texts, MAX_PROMPTS, "text") if args.texts else []
    if not images:
        raise CogViewError("give the images to score")
    if not texts:
        raise CogViewError("give a text with --text, or a file of texts with --texts")
    batch_size, family = scoring.batch_size, ModelBundle.find(scoring.model, "score")
    pipeline = scoring.place.open(family)
    with bar("scoring") as show:
        scores = pipeline.score(
            images, texts, released=scoring.released, batch_size=batch_size, progress=show
        )
    if scoring.as_json:
        paths = [str(path) for path in images]
        return scoring.report(family, images=paths, texts=texts, scores=scores.tolist())
    for path, row in zip(images, scores.tolist(), strict=True):
        for text, value in zip(texts, row, strict=True):
            typer.echo(f"{path}\t{value:.4f}\t{text}")


class RankingTask(NamedTuple):
    """A prompt and the images to rank by it."""

    prompt: str
    images: tuple[Path, ...]


class Ranking(Config):
    """The prompts and images to rank, and the number of best ones to copy."""

    prompt: str | None = option(None, "What the images should show.", argument=True, metavar="PROMPT")
    images: tuple[Path, ...] = option((), "The images to rank.", argument=True, metavar="IMAGE...")
    file: Path | None = option(
        None, "A file of lines: a prompt and its images, separated by tabs.", "--lines", metavar="FILE"
    )
    keep: int | None = option(None, "Number of best images of each prompt to copy to --out.", ge=1)
    out: Path = option(Path("out"), "The folder for --keep.", "--out", "-o")

    def tasks(self) -> list[RankingTask]:
        """The prompt and images of the command line, or those of every line of a file."""
        if self.file is not None:
            if self.prompt is not None:
                raise CogViewError("give a prompt and images, or --lines, not both")
            lines = enumerate(read_lines(self.file, MAX_PROMPTS), 1)
            return [parse_task(line, f"{self.file}: line {number}") for number, line in lines]
        if self.prompt is None or not self.images:
            raise CogViewError("give a prompt in quotes and its images, or a file of both with --lines")
        if Path(self.prompt).suffix and Path(self.prompt).is_file():
            raise CogViewError(
                f"{self.prompt}: the prompt comes first, but this is a file; give a prompt first"
            )
        return [RankingTask(self.prompt, self.images)]

    def copy_best(self, task: RankingTask, ranked: Sequence[Ranked], folder: Path) -> list[Path]:
        """Copy the best images, named by their rank, if ``keep`` is set; returns their paths."""
        copies: list[Path] = []
        if self.keep is not None:
            check_folder(folder)
            for rank, item in enumerate(ranked[: self.keep], 1):
                original = task.images[item.number]
                copies.append(folder / f"{rank:02d}-{original.name}")
                with writing(copies[-1]):
                    shutil.copyfile(original, copies[-1])
        return copies


@grouped()
def rerank(args: Ranking, scoring: Scoring) -> None:
    """Sort images by how well a prompt describes them (CogView's self-reranking).

    Examples:

      cogview rerank "a red apple" out/*.png

      cogview rerank "a red apple" out/*.png --keep 2 -o best/

    Prints rank, caption loss and image, separated by tabs. With --keep, the best files are copied unchanged,
    named by their rank. The model needs a caption role.
    """
    tasks, batch_size = args.tasks(), scoring.batch_size
    for path in (path for task in tasks for path in task.images):
        check_picture(path)
    family = ModelBundle.find(scoring.model, "score")
    if args.keep is not None:
        check_folder(args.out)
    pipeline, facts = scoring.place.open(family), []
    for number, task in enumerate(tasks, 1):
        with bar("scoring") as show:
            ranked = pipeline.rerank(
                task.prompt, task.images, released=scoring.released, batch_size=batch_size, progress=show
            )
        copies = args.copy_best(task, ranked, args.out if len(tasks) == 1 else args.out / f"{number:03d}")
        pictures = [{"path": str(task.images[item.number]), "score": item.score} for item in ranked]
        facts.append({"prompt": task.prompt, "pictures": pictures, "kept": [str(path) for path in copies]})
        if not scoring.as_json:
            start = f"{task.prompt}\t" if len(tasks) > 1 else ""
            for rank, item in enumerate(ranked, 1):
                typer.echo(f"{start}{rank}\t{item.score:.4f}\t{task.images[item.number]}")
            for path in copies:
                typer.echo(f"{start}kept\t{path}")
    if scoring.as_json:
        scoring.report(family, prompts=facts)


def parse_task(line: str, where: str) -> RankingTask:
    """A prompt and its images, separated by tabs; raises CogViewError if invalid, naming ``where``."""
    prompt, *paths = (part.strip() for part in line.split("\t"))
    if not prompt or not any(paths):
        raise CogViewError(f"{where}: expected a prompt and its images, separated by tabs")
    return RankingTask(prompt, tuple(Path(path) for path in paths if path))
