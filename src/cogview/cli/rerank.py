"""``cogview score`` and ``cogview rerank``: how well texts describe images, as the caption model's loss."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.options import IMAGES, JSON, Opening, Pictures, grouped
from cogview.cli.output import MAX_PROMPTS, bar, check_folder, print_json, writing
from cogview.config import Config, option
from cogview.data.images import check_picture
from cogview.errors import CogViewError
from cogview.files import read_lines
from cogview.pipelines.base import Ranked


class Scoring(Opening):
    """How scores are computed."""

    released: bool = option(False, "By the sum of log p, as CogView's released code does.")
    as_json: bool = JSON

    def report(self, family: ModelBundle, **facts: object) -> None:
        """Print the result as JSON."""
        measure = "caption loss, nats a token; lower is better"
        if self.released:
            measure = "sum of log p over the text's tokens; higher is better"
        common = {"model": family.config.name, "model_hash": family.hash, "measure": measure}
        print_json(common | facts)


class Texts(Config):
    """What is scored."""

    images: Pictures = IMAGES
    text: tuple[str, ...] = option((), "A text to score with every image; may be repeated.", repeated=True)
    texts: Path | None = option(None, "A text file with a text on each line.", metavar="FILE")


@grouped()
def score(given: Texts, scoring: Scoring) -> None:
    """Caption losses of images and texts, in nats a token: low where the text describes the image well.

    Examples:

      cogview score cat.png --text "a cat" --text "a red apple"

      cogview score *.png --texts captions.txt --json

    Prints image, loss and text, separated by tabs, in the order of the images. The model needs a caption
    role.
    """
    images, words = list(given.images), list(given.text)
    words += read_lines(given.texts, MAX_PROMPTS, "text") if given.texts else []
    if not images:
        raise CogViewError("give the pictures to score")
    if not words:
        raise CogViewError("give a text with --text, or a file of texts with --texts")
    batch_size, family = scoring.batch_size, ModelBundle.find(scoring.model, "score")
    pipeline = scoring.place.open(family)
    with bar("scoring") as show:
        table = pipeline.score(images, words, released=scoring.released, batch_size=batch_size, progress=show)
    if scoring.as_json:
        paths = [str(path) for path in images]
        return scoring.report(family, images=paths, texts=words, scores=table.tolist())
    for path, row in zip(images, table.tolist(), strict=True):
        for one, value in zip(words, row, strict=True):
            typer.echo(f"{path}\t{value:.4f}\t{one}")


class Order(NamedTuple):
    """A prompt and its images."""

    prompt: str
    images: tuple[Path, ...]


class Ranking(Config):
    """What is ranked, and what becomes of the best."""

    prompt: str | None = option(None, "What the images should show.", argument=True, metavar="PROMPT")
    images: tuple[Path, ...] = option((), "The pictures.", argument=True, metavar="IMAGE...")
    file: Path | None = option(
        None,
        "A file instead, each line a prompt and its images, separated by tabs.",
        "--lines",
        metavar="FILE",
    )
    keep: int | None = option(None, "Number of a prompt's best images to copy to --out.", ge=1)
    out: Path = option(Path("out"), "The folder for --keep.", "--out", "-o")

    def orders(self) -> list[Order]:
        """The prompt and images of the command line, or those of every line of a file."""
        if self.file is not None:
            if self.prompt is not None:
                raise CogViewError("give a prompt and pictures, or --lines, not both")
            lines = enumerate(read_lines(self.file, MAX_PROMPTS), 1)
            return [read_order(line, f"{self.file}: line {number}") for number, line in lines]
        if self.prompt is None or not self.images:
            raise CogViewError("give a prompt in quotes and its pictures, or a file of both with --lines")
        if Path(self.prompt).suffix and Path(self.prompt).is_file():
            found = f"{self.prompt}: the prompt comes first, and this is a file"
            raise CogViewError(f"{found}; put a sentence in front")
        return [Order(self.prompt, self.images)]

    def keep_best(self, order: Order, ranked: Sequence[Ranked], folder: Path) -> list[Path]:
        """Copies of the best images, named by their rank, if they are asked for."""
        copies: list[Path] = []
        if self.keep is not None:
            check_folder(folder)
            for rank, one in enumerate(ranked[: self.keep], 1):
                original = order.images[one.number]
                copies.append(folder / f"{rank:02d}-{original.name}")
                with writing(copies[-1]):
                    shutil.copyfile(original, copies[-1])
        return copies


@grouped()
def rerank(given: Ranking, scoring: Scoring) -> None:
    """Sort images by how well a prompt describes them (CogView's self-reranking).

    Examples:

      cogview rerank "a red apple" out/*.png

      cogview rerank "a red apple" out/*.png --keep 2 -o best/

    Prints rank, caption loss and image, separated by tabs. Files that are kept are exact copies, named by
    their rank. The model needs a caption role.
    """
    orders, batch_size = given.orders(), scoring.batch_size
    for path in (path for order in orders for path in order.images):
        check_picture(path)
    family = ModelBundle.find(scoring.model, "score")
    if given.keep is not None:
        check_folder(given.out)
    pipeline, facts = scoring.place.open(family), []
    for number, order in enumerate(orders, 1):
        with bar("scoring") as show:
            ranked = pipeline.rerank(
                order.prompt, order.images, released=scoring.released, batch_size=batch_size, progress=show
            )
        kept = given.keep_best(order, ranked, given.out if len(orders) == 1 else given.out / f"{number:03d}")
        pictures = [{"path": str(order.images[one.number]), "score": one.score} for one in ranked]
        facts.append({"prompt": order.prompt, "pictures": pictures, "kept": [str(path) for path in kept]})
        if not scoring.as_json:
            start = f"{order.prompt}\t" if len(orders) > 1 else ""
            for rank, one in enumerate(ranked, 1):
                typer.echo(f"{start}{rank}\t{one.score:.4f}\t{order.images[one.number]}")
            for path in kept:
                typer.echo(f"{start}kept\t{path}")
    if scoring.as_json:
        scoring.report(family, prompts=facts)


def read_order(line: str, where: str) -> Order:
    """A prompt and its images, tabs between them; CogViewError for another line."""
    words, *paths = (part.strip() for part in line.split("\t"))
    if not words or not any(paths):
        raise CogViewError(f"{where}: write a prompt, a tab, and pictures with tabs between")
    return Order(words, tuple(Path(path) for path in paths if path))
