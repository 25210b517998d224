"""``cogview plan``: memory, sharding and time of a training run on other machines."""

from __future__ import annotations

import typer

from cogview.cli.options import JSON, SET, grouped
from cogview.config import Config, Existing, option
from cogview.training.machines import Machine, Sharding


class Run(Config):
    """The run to plan."""

    recipe: Existing = option(..., "A transformer's recipe.", argument=True, metavar="RECIPE")
    overrides: tuple[str, ...] = SET
    sharding: Sharding | None = option(
        None, "none, zero2 or zero3: what is sharded among GPUs.", shown="the least that fits"
    )
    as_json: bool = JSON


@grouped()
def plan(run: Run, machine: Machine) -> None:
    """Estimate memory, sharding, speed and days of a training run on machines that you need not have.

    cogview plan recipes/cogview-paper.yaml --gpus 512 --memory 32 --flops 125

    cogview plan recipes/cogview-paper.yaml --set parallel.tensor=4 --gpus 64

    cogview plan recipes/cogview2-direct-released.yaml --gpus 8
    """
    from cogview.training.planning import plan as make
    from cogview.training.planning import read_work

    config, work = read_work(run.recipe, run.overrides, machine.gpus)
    result = make(config, work, machine, run.sharding)
    typer.echo(result.model_dump_json(indent=2) if run.as_json else "\n".join(result.lines(machine.gpus)))
