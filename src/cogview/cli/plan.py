"""``cogview plan``: what a recipe would take on other machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from cogview.cli.options import JSON, SET, Existing, grouped
from cogview.config import Config, option
from cogview.training.machines import Machine, Sharding

if TYPE_CHECKING:
    from cogview.training.planning import Plan

GIB = 2**30


class Run(Config):
    """What is planned."""

    recipe: Existing = option(..., "A transformer's recipe.", argument=True, metavar="RECIPE")
    overrides: tuple[str, ...] = SET
    sharding: Sharding | None = option(
        None, "none, zero2 or zero3: what is shared among GPUs.", shown="the least that fits"
    )
    as_json: bool = JSON


@grouped()
def plan(run: Run, machine: Machine) -> None:
    """Memory, sharding, speed and days of a training run on machines you may not have yet.

    cogview plan recipes/cogview-paper.yaml --gpus 512 --memory 32 --flops 125

    cogview plan recipes/cogview-paper.yaml --set parallel.tensor=4 --gpus 64

    cogview plan recipes/cogview2-direct-released.yaml --gpus 8
    """
    from cogview.training.planning import plan as make
    from cogview.training.planning import read_work

    config, work = read_work(run.recipe, run.overrides, machine.gpus)
    found = make(config, work, machine, run.sharding)
    typer.echo(found.model_dump_json(indent=2) if run.as_json else text_of(found, machine.gpus))


def text_of(plan: Plan, gpus: int) -> str:
    """The plan for people, one line a fact."""
    hidden = min(1.0, plan.compute_seconds * 2 / 3 / max(plan.communication_seconds, 1e-12))
    shared = f", each layer among {plan.tensor}" if plan.tensor > 1 else ""
    each = "a GPU" if plan.tensor == 1 else f"for {plan.tensor} GPUs"
    inside = f", {plan.tensor_seconds:.2f} s adding up in layers" if plan.tensor > 1 else ""
    trained = f", {plan.trained:,} of them trained" if plan.trained != plan.parameters else ""
    return "\n".join(
        (
            *([plan.assumed] if plan.assumed else []),
            f"parameters      {plan.parameters:,}{trained}",
            f"sharding        {plan.sharding}{shared}, micro-batch {plan.micro_batch} {each}, "
            f"{plan.accumulation} accumulated, {gpus} GPUs",
            f"memory a GPU    {plan.memory.states / GIB:.1f} GiB weights, gradients and optimizer, "
            f"{plan.memory.activations / GIB:.1f} GiB activations",
            f"an update       {plan.step_seconds:.2f} s: {plan.compute_seconds:.2f} s computing{inside}, "
            f"{plan.communication_seconds:.2f} s communicating, {hidden:.0%} of it hidden",
            f"speed           {plan.tokens_per_second:,.0f} tokens/s",
            f"whole run       {plan.days:.1f} days",
        )
    )
