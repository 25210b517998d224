"""``cogview rerank``: pictures by how well a prompt describes them, the best first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cogview.cli.batches import MaxBatch, batch_limit
from cogview.cli.generate import check_folder, read_prompts
from cogview.cli.opening import (
    DeviceOption,
    Place,
    ThreadsOption,
    check_model,
    check_pictures,
    open_model,
)
from cogview.cli.precision import PrecisionOption
from cogview.cli.progress import bar
from cogview.cli.score import measure
from cogview.errors import CogViewError

if TYPE_CHECKING:
    from cogview.pipelines.model import Pipeline
    from cogview.pipelines.output import Ranked


@dataclass(frozen=True)
class Order:
    """A prompt and its pictures."""

    prompt: str
    images: tuple[Path, ...]


def rerank(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What was to be drawn.", show_default=False)
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="IMAGE...", help="The pictures.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--lines", metavar="FILE", help="Instead: lines of a prompt and its pictures, tabs between them."
        ),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Copy the best so many of a prompt's pictures to --out.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for --keep.")] = Path("out"),
    released: Annotated[
        bool, typer.Option("--released", help="By the sum of log p, as CogView's released code does.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="A model's name (see cogview models) or directory.")
    ] = "pictogram",
    as_json: Annotated[bool, typer.Option("--json", help="Print the order as JSON.")] = False,
    precision: PrecisionOption = "fp32",
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    max_batch: MaxBatch = None,
) -> None:
    """Sort pictures by how well a prompt describes them (CogView's self-reranking).

    Examples:

      cogview rerank "a red apple" out/*.png

      cogview rerank "a red apple" out/*.png --keep 2 -o best/

    Printed are rank, caption loss and picture, with tabs between them. Files that are kept are copies, with
    all that is written in them, named by their rank. The model needs a caption role.
    """
    orders = read_orders(prompt, images or [], file)
    batch_size, place = batch_limit(max_batch), Place(device, threads, precision)
    check_pictures(path for order in orders for path in order.images)
    family = check_model(model, "score")
    if keep is not None:
        check_folder(out)
    cogview = open_model(family, place)
    results = []
    for number, order in enumerate(orders, 1):
        with bar("scoring") as show:
            ranked = cogview.rerank(
                order.prompt, order.images, released=released, batch_size=batch_size, progress=show
            )
        folder = out if len(orders) == 1 else out / f"{number:03d}"
        kept = copy(order, ranked[:keep], folder) if keep is not None else []
        results.append((order, ranked, kept))
        if not as_json:
            for line in lines(order, ranked, kept, len(orders) > 1):
                typer.echo(line)
    if as_json:
        typer.echo(json.dumps(facts(cogview, results, released), indent=2, ensure_ascii=False))


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
        try:
            shutil.copyfile(original, copies[-1])
        except OSError as error:
            raise CogViewError(f"{copies[-1]}: cannot be written ({error.strerror or error})") from error
    return copies


def lines(order: Order, ranked: Sequence[Ranked], kept: Sequence[Path], several: bool) -> list[str]:
    """The table of one prompt; with several prompts each line begins with its own."""
    start = f"{order.prompt}\t" if several else ""
    table = [
        f"{start}{rank}\t{one.score:.4f}\t{order.images[one.number]}" for rank, one in enumerate(ranked, 1)
    ]
    return table + [f"{start}kept\t{path}" for path in kept]


def facts(
    cogview: Pipeline, results: Sequence[tuple[Order, list[Ranked], list[Path]]], released: bool
) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "model": cogview.bundle.config.name,
        "model_hash": cogview.model_hash,
        "measure": measure(released),
        "prompts": [
            {
                "prompt": order.prompt,
                "pictures": [{"path": str(order.images[one.number]), "score": one.score} for one in ranked],
                "kept": [str(path) for path in kept],
            }
            for order, ranked, kept in results
        ],
    }
