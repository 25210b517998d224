"""``cogview train-on``: train a model on a folder of images, in one command."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path

import typer

from cogview.checkpoints.bundle import find
from cogview.cli.options import grouped
from cogview.cli.output import bar
from cogview.config import Config, existing, option
from cogview.training.train_on.settings import Settings


class Job(Config):
    """Where the model is written, and which stages run."""

    out: Path = option(..., "The model's directory.", "--out", "-o", metavar="MODEL")
    work: Path | None = option(
        None, "Folder for intermediate files; may be removed afterwards.", shown="MODEL.work"
    )
    plan: bool = option(False, "Only inspect the data, and print what would be done.")
    restart: bool = option(False, "Discard an earlier run and start again.")


@grouped()
def train_on(settings: Settings, job: Job) -> None:
    """Train a model on your images.

    Inspects the data, reports how it is used and what training will cost, trains tokenizers and model,
    evaluates them, and writes a model for cogview generate. Stop it with Ctrl-C at any moment; the same
    command continues.

    Sizes: tiny, 36 px, minutes on a CPU core; small, 72 px, a quarter of an hour on two cores, for hundreds
    of images; base, the size of the default model, for thousands; large, 128 px, for a GPU.

    cogview train-on my-pictures/ --out models/mine --size tiny

    cogview train-on my-pictures/ --out models/mine --from pictogram --lora 8
    """
    for place in (settings.source, settings.images):
        existing(Path(place or "."))
    if settings.start is not None:
        find(settings.start)
    from rich.console import Console

    from cogview.training.train_on import stages
    from cogview.training.train_on.state import restart

    if job.restart:
        restart(job.out, job.work)
    console = Console(stderr=True)
    work = stages.TrainOn(settings, job.out, job.work, console, partial(bar, unit="count"))
    try:
        family = work.run("text" if job.plan else "model")
    except stages.Stopped as stopped:
        command = shlex.join(["cogview", *(word for word in sys.argv[1:] if word != "--restart")])
        console.print(f"{stopped}: go on with: {command}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None  # there is no model yet, so a following command must not run
    if family is not None:
        typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]}")
        prompt = shlex.quote(work.state.survey.examples[0] if work.state.survey else "…")
        model = shlex.quote(str(job.out))
        typer.echo(f"generate images with: cogview generate {prompt} --model {model} -n 4", err=True)
