"""``cogview plan``: what a recipe would take on other machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cogview.cli.arguments import existing

if TYPE_CHECKING:
    from cogview.training.plan import Plan, Work
    from cogview.transformer.config import TransformerConfig

ACCELERATORS = "A100: 312, H100 and H200: 989, V100: 125 (fp16), RTX 4090: 165"


def plan(
    recipe: Annotated[
        Path, typer.Argument(callback=existing, help="A transformer's recipe.", show_default=False)
    ],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe.")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many there are in all.")] = 8,
    per_node: Annotated[int, typer.Option(min=1, help="How many in one machine.")] = 8,
    memory: Annotated[float, typer.Option(help="GiB of each.")] = 80.0,
    flops: Annotated[float, typer.Option(help=f"Peak of each in TFLOP/s ({ACCELERATORS}).")] = 312.0,
    utilisation: Annotated[float, typer.Option(help="Share of the peak reached in practice.")] = 0.45,
    local: Annotated[float, typer.Option(help="GB/s a GPU sends within a machine.")] = 200.0,
    network: Annotated[float, typer.Option(help="GB/s a GPU sends between machines.")] = 25.0,
    sharding: Annotated[
        str | None, typer.Option(help="none, zero2 or zero3; default: the least that fits.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Memory, sharding, speed and days of a training run on machines you may not have yet.

    cogview plan recipes/cogview-paper.yaml --gpus 512 --memory 32 --flops 125

    cogview plan recipes/cogview-paper.yaml --set parallel.tensor=4 --gpus 64
    """
    from typing import get_args

    from cogview.config import validate
    from cogview.errors import CogViewError
    from cogview.training.plan import Machine, Sharding
    from cogview.training.plan import plan as make

    if sharding is not None and sharding not in get_args(Sharding):
        raise CogViewError(f"--sharding {sharding}: there are {', '.join(get_args(Sharding))}")
    numbers = {"gpus": gpus, "per_node": per_node, "memory": memory, "flops": flops}
    numbers |= {"utilisation": utilisation, "local": local, "network": network}
    machine = validate(Machine, numbers, "plan")
    config, work = _read(recipe, overrides or [], gpus)
    found = make(config, work, machine, sharding)  # type: ignore[arg-type]
    typer.echo(found.model_dump_json(indent=2) if as_json else _told(found, gpus))


def _read(path: Path, overrides: list[str], gpus: int) -> tuple[TransformerConfig, Work]:
    """Architecture and work of a recipe; its data need not be there, then sizes must be in the recipe."""
    from cogview.errors import CogViewError
    from cogview.training.parallel.checks import check_tensor
    from cogview.training.plan import Work
    from cogview.training.registry import read_recipe, task_class
    from cogview.training.tasks.transformer import TransformerRecipe, TransformerTask
    from cogview.transformer.config import TransformerConfig

    recipe = read_recipe(path, overrides)
    if not isinstance(recipe, TransformerRecipe):
        raise CogViewError(f"{path}: plans are for transformers, this recipe trains {recipe.task}")
    check_tensor(recipe, task_class(recipe.task).parallel, gpus)
    given = recipe.model
    if recipe.data.exists():
        task = cast(TransformerTask, task_class(recipe.task)(recipe))
        config, length = task.config(), task.format.max_length
    else:
        if given is None or not (given.vocab_size and given.max_positions):
            raise CogViewError(
                f"{recipe.data} is not there to take sizes from; give them: "
                "--set model.vocab_size=58240 --set model.max_positions=1089"
            )
        config = TransformerConfig.model_validate(given.model_dump())
        length = given.max_positions
    work = Work(
        length=length,
        batch=recipe.batch_size * recipe.accumulation,
        steps=recipe.steps,
        recompute=recipe.activation_checkpointing,
        half=recipe.precision != "fp32",
        momentum_only=recipe.optimizer.kind == "muon",
        tensor=recipe.parallel.tensor,
    )
    return config, work


def _told(plan: Plan, gpus: int) -> str:
    gib = 2**30
    hidden = min(1.0, plan.compute_seconds * 2 / 3 / max(plan.communication_seconds, 1e-12))
    shared = f", each layer among {plan.tensor}" if plan.tensor > 1 else ""
    each = "a GPU" if plan.tensor == 1 else f"for {plan.tensor} GPUs"
    inside = f", {plan.tensor_seconds:.2f} s adding up in layers" if plan.tensor > 1 else ""
    return "\n".join(
        (
            f"parameters      {plan.parameters:,}",
            f"sharding        {plan.sharding}{shared}, micro-batch {plan.micro_batch} {each}, "
            f"{plan.accumulation} accumulated, {gpus} GPUs",
            f"memory a GPU    {plan.memory.states / gib:.1f} GiB weights, gradients and optimizer, "
            f"{plan.memory.activations / gib:.1f} GiB activations",
            f"an update       {plan.step_seconds:.2f} s: {plan.compute_seconds:.2f} s computing{inside}, "
            f"{plan.communication_seconds:.2f} s communicating, {hidden:.0%} of it hidden",
            f"speed           {plan.tokens_per_second:,.0f} tokens/s",
            f"whole run       {plan.days:.1f} days",
        )
    )
