"""``cogview score`` and ``cogview rerank``: how well texts describe pictures, as the caption model's loss."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cogview.cli.options import (
    IMAGES,
    JSON,
    MAX_BATCH,
    MODEL,
    Place,
    check_model,
    check_pictures,
    grouped,
    read_prompts,
)
from cogview.cli.output import bar, batch_limit, check_folder, print_json, writing
from cogview.config import Config, option
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.pipelines.base import Ranked


class Scoring(Config):
    """How scores are computed."""

    released: bool = option(False, "By the sum of log p, as CogView's released code does.")
    model: str = MODEL("pictogram")
    as_json: bool = JSON
    place: Place = Place()
    max_batch: str | None = MAX_BATCH

    @property
    def measure(self) -> str:
        """What a score is."""
        if self.released:
            return "sum of log p over the text's tokens; higher is better"
        return "caption loss, nats a token; lower is better"


class Texts(Config):
    """What is scored."""

    images: tuple[Path, ...] = IMAGES
    text: tuple[str, ...] = option((), "A text to score with every picture; may be repeated.", repeated=True)
    texts: Path | None = option(None, "A text file with a text on each line.", metavar="FILE")


@grouped()
def score(given: Texts, scoring: Scoring) -> None:
    """Caption losses of pictures and texts, in nats a token: low where the text describes the picture well.

    Examples:

      cogview score cat.png --text "a cat" --text "a red apple"

      cogview score *.png --texts captions.txt --json

    Printed are picture, loss and text, with tabs between them, pictures in order. The model needs a caption
    role.
    """
    images, words = given.images, [*given.text, *read_prompts(given.texts, "text")]
    if not images:
        raise CogViewError("give the pictures to score")
    if not words:
        raise CogViewError("give a text with --text, or a file of texts with --texts")
    batch_size = batch_limit(scoring.max_batch)
    check_pictures(images)
    pipeline = scoring.place.open(check_model(scoring.model, "score"))
    with bar("scoring") as show:
        table = pipeline.score(
            list(images), words, released=scoring.released, batch_size=batch_size, progress=show
        )
    if scoring.as_json:
        print_json(
            {
                "model": pipeline.bundle.config.name,
                "model_hash": pipeline.model_hash,
                "measure": scoring.measure,
                "images": [str(path) for path in images],
                "texts": words,
                "scores": table.tolist(),
            }
        )
        return
    for path, row in zip(images, table.tolist(), strict=True):
        for one, value in zip(words, row, strict=True):
            typer.echo(f"{path}\t{value:.4f}\t{one}")


@dataclass(frozen=True)
class Order:
    """A prompt and its pictures."""

    prompt: str
    images: tuple[Path, ...]


class Ranking(Config):
    """What is ranked, and what becomes of the best."""

    prompt: str | None = option(None, "What was to be drawn.", argument=True, metavar="PROMPT")
    images: tuple[Path, ...] = option((), "The pictures.", argument=True, metavar="IMAGE...")
    file: Path | None = option(
        None, "Instead: lines of a prompt and its pictures, tabs between them.", "--lines", metavar="FILE"
    )
    keep: int | None = option(None, "Number of a prompt's best pictures to copy to --out.", ge=1)
    out: Path = option(Path("out"), "The folder for --keep.", "--out", "-o")


@grouped()
def rerank(given: Ranking, scoring: Scoring) -> None:
    """Sort pictures by how well a prompt describes them (CogView's self-reranking).

    Examples:

      cogview rerank "a red apple" out/*.png

      cogview rerank "a red apple" out/*.png --keep 2 -o best/

    Printed are rank, caption loss and picture, with tabs between them. Files that are kept are copies, with
    all that is written in them, named by their rank. The model needs a caption role.
    """
    orders = read_orders(given.prompt, given.images, given.file)
    batch_size = batch_limit(scoring.max_batch)
    check_pictures(path for order in orders for path in order.images)
    family = check_model(scoring.model, "score")
    if given.keep is not None:
        check_folder(given.out)
    pipeline, facts = scoring.place.open(family), []
    for number, order in enumerate(orders, 1):
        with bar("scoring") as show:
            ranked = pipeline.rerank(
                order.prompt, order.images, released=scoring.released, batch_size=batch_size, progress=show
            )
        folder = given.out if len(orders) == 1 else given.out / f"{number:03d}"
        kept = copy(order, ranked[: given.keep], folder) if given.keep is not None else []
        pictures = [{"path": str(order.images[one.number]), "score": one.score} for one in ranked]
        facts.append({"prompt": order.prompt, "pictures": pictures, "kept": [str(path) for path in kept]})
        if not scoring.as_json:
            for line in lines(order, ranked, kept, len(orders) > 1):
                typer.echo(line)
    if scoring.as_json:
        print_json(
            {
                "model": family.config.name,
                "model_hash": pipeline.model_hash,
                "measure": scoring.measure,
                "prompts": facts,
            }
        )


def read_orders(prompt: str | None, images: Sequence[Path], file: Path | None) -> list[Order]:
    """The prompt and pictures of the command line, or those of every line of a file."""
    if file is None:
        if prompt is None or not images:
            raise CogViewError("give a prompt in quotes and its pictures, or a file of both with --lines")
        if Path(prompt).suffix and Path(prompt).is_file():
            raise CogViewError(
                f"{prompt}: the prompt comes first, and this is a file; put a sentence in front"
            )
        return [Order(prompt, tuple(images))]
    if prompt is not None:
        raise CogViewError("give a prompt and pictures, or --lines, not both")
    orders = []
    for number, line in enumerate(read_prompts(file, "line"), 1):
        words, *paths = (part.strip() for part in line.split("\t"))
        if not words or not any(paths):
            raise CogViewError(
                f"{file}: line {number}: write a prompt, a tab, and pictures with tabs between"
            )
        orders.append(Order(words, tuple(Path(path) for path in paths if path)))
    return orders


def copy(order: Order, ranked: Sequence[Ranked], folder: Path) -> list[Path]:
    """The pictures of ``ranked`` copied, named by their rank; the copies."""
    check_folder(folder)
    copies = []
    for rank, one in enumerate(ranked, 1):
        original = order.images[one.number]
        copies.append(folder / f"{rank:02d}-{original.name}")
        with writing(copies[-1]):
            shutil.copyfile(original, copies[-1])
    return copies


def lines(order: Order, ranked: Sequence[Ranked], kept: Sequence[Path], several: bool) -> list[str]:
    """The table of one prompt; with several prompts each line begins with its own."""
    start = f"{order.prompt}\t" if several else ""
    table = [
        f"{start}{rank}\t{one.score:.4f}\t{order.images[one.number]}" for rank, one in enumerate(ranked, 1)
    ]
    return table + [f"{start}kept\t{path}" for path in kept]
