"""``cogview train``: a recipe becomes a run directory with a trained model in it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="The YAML recipe; not needed with --resume.", show_default=False),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field (optimizer.lr=1e-3)."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run directory (default: runs/NAME).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in it.")] = False,
    auto_resume: Annotated[
        bool, typer.Option("--auto-resume", help="Go on if the run has begun, else begin it.")
    ] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Show losses, speed, memory and samples, as `cogview watch` does.")
    ] = False,
) -> None:
    """Train a model from a recipe; stop it with Ctrl-C and go on with --resume.

    On several processes (docs/parallel-training.md):

        torchrun --nproc-per-node 8 -m cogview.cli train recipe.yaml --set parallel.kind=fsdp --auto-resume
    """
    from rich.console import Console

    from cogview.errors import CogViewError
    from cogview.training.launch import begin, meet
    from cogview.training.parallel_ranks import ElsewhereError
    from cogview.training.recipe import read_recipe, task_class
    from cogview.training.trainer import Trainer

    console = Console(stderr=True)
    with _said_once():
        if recipe is None and not (resume and out):
            raise CogViewError("give a recipe, or --resume with --out to go on with a run")
        given = read_recipe(recipe or _saved(out), overrides or ())
        directory = out or Path("runs") / given.name
        task = task_class(given.task)(given)
        ranks = meet(task, given)
    try:
        going_on = ranks.lead(lambda: begin(given, directory, resume, auto_resume))
        with _view(directory, console, live and ranks.first) as quiet:
            outcome = Trainer(task, given, directory, quiet, ranks).fit(going_on)
    except ElsewhereError:
        raise typer.Exit(2) from None  # the rank that failed says why
    if not ranks.first:
        return
    message = f"done: {outcome.step} steps; the model is in {directory / 'model'}"
    if outcome.stopped:
        command = _command(recipe, overrides, directory)
        message = f"{outcome.stopped}: stopped after step {outcome.step}; go on with: {command}"
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _said_once() -> Iterator[None]:
    """Of several processes on a machine, which all find the same mistake, the first one says it."""
    from cogview.errors import CogViewError
    from cogview.training.parallel_ranks import local_rank

    try:
        yield
    except CogViewError:
        if local_rank():
            raise typer.Exit(2) from None
        raise


@contextmanager
def _view(directory: Path, console: Console, live: bool) -> Iterator[Console]:
    """Where the trainer talks: to the terminal, or nowhere while the live view is on it."""
    from rich.console import Console

    from cogview.training.view import live as show

    if not live or not console.is_terminal:
        yield console
        return
    with show(directory, console):
        yield Console(quiet=True)


def _saved(out: Path | None) -> Path:
    from cogview.errors import CogViewError

    assert out is not None
    if not (out / "recipe.yaml").is_file():
        raise CogViewError(f"{out} holds no run to resume; give the recipe and leave --resume out")
    return out / "recipe.yaml"


def _command(recipe: Path | None, overrides: list[str] | None, directory: Path) -> str:
    words = ["cogview", "train", *([str(recipe)] if recipe else [])]
    for override in overrides or []:
        words += ["--set", override]
    return shlex.join([*words, "--resume", "--out", str(directory)])
