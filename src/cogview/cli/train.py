"""``cogview train``: a recipe becomes a run directory with a trained model in it."""

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
    """What is trained, where, and how it is shown."""

    recipe: Path | None = option(
        None, "The YAML recipe; not needed with --resume.", argument=True, metavar="RECIPE"
    )
    overrides: tuple[str, ...] = SET
    out: Path | None = option(None, "The run directory.", shown="runs/NAME")
    resume: bool = option(False, "Continue from the last checkpoint in it.")
    auto_resume: bool = option(False, "Continue if the run has begun, else begin it.")
    live: bool = option(False, "Show losses, speed, memory and samples, as `cogview watch` does.")
    processes: int = option(
        1, "Split each batch among this number of processes of this machine: its GPUs.", ge=1, le=1024
    )
    device: Annotated[str | None, Check(check_device)] = option(
        None, "auto, cpu, cuda, cuda:N or mps.", shown="the recipe's"
    )

    @property
    def settings(self) -> list[str]:
        """What is changed of the recipe."""
        return [*self.overrides, *([f"device={self.device}"] if self.device else ())]

    def path(self) -> Path:
        """The recipe: as given, else that of the run that is resumed."""
        if self.recipe is not None:
            return self.recipe
        if not (self.resume and self.out):
            raise CogViewError("give a recipe, or --resume with --out to go on with a run")
        if not (self.out / "recipe.yaml").is_file():
            raise CogViewError(f"{self.out} holds no run to resume; give the recipe and leave --resume out")
        return self.out / "recipe.yaml"

    def words(self, directory: Path) -> list[str]:
        """The command that begins this run, after "cogview"."""
        words = ["train", *([str(self.recipe)] if self.recipe else []), "--out", str(directory)]
        for setting in self.settings:
            words += ["--set", setting]
        return words + (["--processes", str(self.processes)] if self.processes > 1 else [])

    def launch(self, words: list[str], kind: str) -> int:
        """Start this command once for each process; the exit code."""
        from cogview.training.processes import run_processes

        switches = {"--resume": self.resume, "--auto-resume": self.auto_resume, "--live": self.live}
        more = [switch for switch, on in switches.items() if on]
        more += ["--set", "parallel.kind=ddp"] if kind == "none" else []
        return run_processes([sys.executable, "-m", "cogview.cli", *words, *more], self.processes)


@grouped()
def train(run: Run) -> None:
    """Train a model from a recipe; stop it with Ctrl-C and continue with --resume.

    The result is the same on one process and on many, to rounding. On several machines or with restarts
    (docs/parallel-training.md):

        torchrun --nproc-per-node 8 -m cogview.cli train recipe.yaml --set parallel.kind=fsdp --auto-resume
    """
    from rich.console import Console

    console = Console(stderr=True)
    with _said_once():
        path = run.path()
        load_yaml(path, run.settings)  # before PyTorch is imported
        from cogview.training.launch import begin, meet
        from cogview.training.locks import held
        from cogview.training.parallel.ranks import ElsewhereError, launched_world
        from cogview.training.registry import read_recipe, task_class
        from cogview.training.trainer import Trainer
        from cogview.training.view import live_view

        given = read_recipe(path, run.settings)
        directory = run.out or Path("runs") / given.name
        words = run.words(directory)
        if run.processes > 1 and launched_world() == 1:
            raise typer.Exit(run.launch(words, given.parallel.kind))
        task = task_class(given.task)(given)
        ranks = meet(task, given)
    try:
        going_on = ranks.lead(lambda: begin(given, directory, run.resume, run.auto_resume))
        with ExitStack() as stack:
            ranks.lead(lambda: stack.enter_context(held(directory)))
            quiet = stack.enter_context(live_view(directory, console, run.live and ranks.first))
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
    try:
        yield
    except CogViewError:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            raise typer.Exit(2) from None
        raise
