"""``cogview train-on``: a folder of images becomes a model, in one command."""

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
    """Where the model goes, and what is done."""

    out: Path = option(..., "The model's directory.", "--out", "-o", metavar="MODEL")
    work: Path | None = option(None, "For intermediate files; may be removed afterwards.", shown="MODEL.work")
    plan: bool = option(False, "Only look at the data, and say what would be done.")
    restart: bool = option(False, "Forget an earlier run and begin again.")


@grouped()
def train_on(settings: Settings, job: Job) -> None:
    """Train a model on your images.

    Inspects the data, says what each sample becomes and what training will cost, trains tokenizers and model,
    measures, and writes a model for cogview generate. Stop it with Ctrl-C at any moment; the same command
    continues.

    Sizes: tiny, 36 px, minutes on a CPU core; small, 72 px, a quarter of an hour on two cores, for hundreds
    of images; base, the default model's, for thousands; large, 128 px, for a GPU.

    cogview train-on my-pictures/ --out models/mine --size tiny

    cogview train-on my-pictures/ --out models/mine --from pictogram --lora 8
    """
    for place in (settings.source, settings.images):
        existing(Path(place or "."))
    if settings.start is not None:
        find(settings.start)
    from rich.console import Console

    from cogview.training.train_on import stages as room
    from cogview.training.train_on.state import restart

    if job.restart:
        restart(job.out, job.work)
    console = Console(stderr=True)
    work = room.TrainOn(settings, job.out, job.work, console, partial(bar, unit="count"))
    try:
        family = work.run("text" if job.plan else "model")
    except room.Stopped as stopped:
        again = shlex.join(["cogview", *(word for word in sys.argv[1:] if word != "--restart")])
        console.print(f"{stopped}: go on with: {again}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(130) from None  # there is no model yet: what was to follow must not
    if family is not None:
        typer.echo(f"{family.directory}: {family.config.name} {family.hash[:12]}")
        prompt = shlex.quote(work.state.survey.examples[0] if work.state.survey else "…")
        model = shlex.quote(str(job.out))
        typer.echo(f"generate with it: cogview generate {prompt} --model {model} -n 4", err=True)
