"""``cogview train``: train a model from a recipe, in a run directory."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cogview.cli.options import SET, grouped
from cogview.config import Check, Config, load_yaml, option
from cogview.errors import CogViewError, TrainingDiverged
from cogview.types import check_device


class Run(Config):
    """The recipe, the run directory, and how the run is shown."""

    recipe: Path | None = option(
        None, "The YAML recipe; not needed with --resume.", argument=True, metavar="RECIPE"
    )
    overrides: tuple[str, ...] = SET
    out: Path | None = option(None, "The run directory.", shown="runs/NAME")
    resume: bool = option(False, "Continue from the last checkpoint in the run directory.")
    auto_resume: bool = option(False, "Continue if the run has begun, else start it.")
    live: bool = option(False, "Show losses, speed, memory and samples, as `cogview watch` does.")
    processes: int = option(
        1, "Split each batch among this number of local processes, one for each GPU.", ge=1, le=1024
    )
    device: Annotated[str | None, Check(check_device)] = option(
        None, "auto, cpu, cuda, cuda:N or mps.", shown="the recipe's"
    )

    @property
    def settings(self) -> list[str]:
        """Overrides of the recipe's fields."""
        return [*self.overrides, *([f"device={self.device}"] if self.device else ())]

    def path(self) -> Path:
        """The recipe of the command line, else that of the run to resume."""
        if self.recipe is not None:
            return self.recipe
        if not (self.resume and self.out):
            raise CogViewError("give a recipe, or --resume with --out to go on with a run")
        if not (self.out / "recipe.yaml").is_file():
            raise CogViewError(f"{self.out} holds no run to resume; give the recipe and leave --resume out")
        return self.out / "recipe.yaml"

    def arguments(self, directory: Path) -> list[str]:
        """The arguments of ``cogview`` that start this run."""
        words = ["train", *([str(self.recipe)] if self.recipe else []), "--out", str(directory)]
        for setting in self.settings:
            words += ["--set", setting]
        return words + (["--processes", str(self.processes)] if self.processes > 1 else [])

    def launch(self, arguments: list[str], kind: str) -> int:
        """Start this command in every process; returns the exit code."""
        from cogview.training.processes import run_processes

        switches = {"--resume": self.resume, "--auto-resume": self.auto_resume, "--live": self.live}
        extra = [switch for switch, on in switches.items() if on]
        extra += ["--set", "parallel.kind=ddp"] if kind == "none" else []
        return run_processes([sys.executable, "-m", "cogview.cli", *arguments, *extra], self.processes)


@grouped()
def train(run: Run) -> None:
    """Train a model from a recipe; stop it with Ctrl-C and continue with --resume.

    The result does not depend on the number of processes, except for rounding. On several machines, or with
    restarts (docs/parallel-training.md):

        torchrun --nproc-per-node 8 -m cogview.cli train recipe.yaml --set parallel.kind=fsdp --auto-resume
    """
    from rich.console import Console

    console = Console(stderr=True)
    with _report_once():
        path = run.path()
        load_yaml(path, run.settings)  # before PyTorch is imported
        from cogview.training.launch import begin, join_ranks
        from cogview.training.locks import locked
        from cogview.training.parallel.ranks import ElsewhereError, launched_world
        from cogview.training.registry import read_recipe, task_class
        from cogview.training.trainer import Trainer
        from cogview.training.view import live_view

        recipe = read_recipe(path, run.settings)
        directory = run.out or Path("runs") / recipe.name
        arguments = run.arguments(directory)
        if run.processes > 1 and launched_world() == 1:
            raise typer.Exit(run.launch(arguments, recipe.parallel.kind))
        task = task_class(recipe.task)(recipe)
        ranks = join_ranks(task, recipe)
    try:
        resumed = ranks.on_first(lambda: begin(recipe, directory, run.resume, run.auto_resume))
        with ExitStack() as stack:
            ranks.on_first(lambda: stack.enter_context(locked(directory)))
            quiet = stack.enter_context(live_view(directory, console, run.live and ranks.first))
            outcome = Trainer(task, recipe, directory, quiet, ranks).fit(resumed)
    except ElsewhereError:
        raise typer.Exit(2) from None  # the rank that failed reports the error
    except TrainingDiverged as error:
        if ranks.first:
            raise
        raise typer.Exit(error.exit_code) from None  # all ranks fail; the first one reports it
    if not ranks.first:
        return
    message = f"done: {outcome.step} steps; the model is in {directory / 'model'}"
    if outcome.stopped:
        command = shlex.join(["cogview", *arguments, "--resume"])
        message = f"{outcome.stopped}: stopped after step {outcome.step}; go on with: {command}"
    console.print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _report_once() -> Iterator[None]:
    """Let only the first of several local processes report a user error, which all of them raise."""
    try:
        yield
    except CogViewError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise typer.Exit(2) from None
        raise
