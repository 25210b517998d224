"""``cogview train``: a recipe becomes a run directory with a trained model in it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cogview.cli.options import check_device

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
    processes: Annotated[
        int,
        typer.Option(
            "--processes", min=1, help="Share each batch among so many processes of this machine: its GPUs."
        ),
    ] = 1,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps (default: the recipe's).")
    ] = None,
) -> None:
    """Train a model from a recipe; stop it with Ctrl-C and go on with --resume.

    The result is the same on one process and on many, to rounding. On several machines or with restarts
    (docs/parallel-training.md):

        torchrun --nproc-per-node 8 -m cogview.cli train recipe.yaml --set parallel.kind=fsdp --auto-resume
    """
    from rich.console import Console

    from cogview.config import load_yaml
    from cogview.errors import CogViewError, TrainingDiverged

    console = Console(stderr=True)
    overrides = [*(overrides or ()), *([f"device={check_device(device)}"] if device else ())]
    with _said_once():
        if recipe is None and not (resume and out):
            raise CogViewError("give a recipe, or --resume with --out to go on with a run")
        path = recipe or _saved(out)
        load_yaml(path, overrides)  # before PyTorch is imported
        from cogview.training.launch import begin, meet
        from cogview.training.parallel.ranks import ElsewhereError, launched_world
        from cogview.training.registry import read_recipe, task_class
        from cogview.training.trainer import Trainer

        given = read_recipe(path, overrides)
        directory = out or Path("runs") / given.name
        words = _words(recipe, overrides, directory, processes)
        if processes > 1 and launched_world() == 1:
            switches = {"--resume": resume, "--auto-resume": auto_resume, "--live": live}
            words += [switch for switch, on in switches.items() if on]
            raise typer.Exit(_launch(words, processes, given.parallel.kind))
        task = task_class(given.task)(given)
        ranks = meet(task, given)
    try:
        going_on = ranks.lead(lambda: begin(given, directory, resume, auto_resume))
        with _view(directory, console, live and ranks.first) as quiet:
            outcome = Trainer(task, given, directory, quiet, ranks).fit(going_on)
    except ElsewhereError:
        raise typer.Exit(2) from None  # the rank that failed says why
    except TrainingDiverged as error:
        if ranks.first:
            raise
        raise typer.Exit(error.exit_code) from None  # all find it; the first one says it
    if not ranks.first:
        return
    message = f"done: {outcome.step} steps; the model is in {directory / 'model'}"
    if outcome.stopped:
        command = shlex.join(["cogview", *words, "--resume"])
        message = f"{outcome.stopped}: stopped after step {outcome.step}; go on with: {command}"
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _said_once() -> Iterator[None]:
    """Of several processes on a machine, which all find the same mistake, the first one says it."""
    from cogview.errors import CogViewError

    try:
        yield
    except CogViewError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
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


def _launch(words: list[str], processes: int, kind: str) -> int:
    """Start this command so many times over; the exit code."""
    from cogview.training.processes import run_processes

    shared = ["--set", "parallel.kind=ddp"] if kind == "none" else []
    return run_processes([sys.executable, "-m", "cogview.cli", *words, *shared], processes)


def _words(recipe: Path | None, overrides: list[str] | None, directory: Path, processes: int) -> list[str]:
    """The command that begins this run, after "cogview"."""
    words = ["train", *([str(recipe)] if recipe else []), "--out", str(directory)]
    for override in overrides or []:
        words += ["--set", override]
    return words + (["--processes", str(processes)] if processes > 1 else [])
