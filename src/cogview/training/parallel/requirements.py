"""Whether a recipe can run on the processes that were started."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from cogview.errors import CogViewError
from cogview.training.parallel.ranks import launched_world, local_rank
from cogview.training.recipe import Recipe


def check_launch(recipe: Recipe, kinds: tuple[str, ...]) -> None:
    """Raise CogViewError where the number of processes does not fit a recipe. ``kinds``: its task's."""
    world, parallel = launched_world(), recipe.parallel
    if world == 1:
        return
    check_tensor(recipe, kinds, world)
    there = world // parallel.tensor
    if parallel.kind == "none" and there > 1:
        raise CogViewError(
            f"{world} processes were started, but parallel.kind is none; "
            "add --set parallel.kind=ddp (or fsdp, hsdp)"
        )
    if parallel.kind not in (*kinds, "none"):
        known = f"with {', '.join(kinds)}" if kinds else "on one process only"
        raise CogViewError(f"parallel.kind: {recipe.task} trains {known}, not with {parallel.kind}")
    if recipe.batch_size < there:
        raise CogViewError(
            f"batch_size: {recipe.batch_size} sequences cannot be shared by {there} ranks; "
            f"give at least {there} (batch_size is of all ranks together)"
        )
    check_deepspeed(recipe)
    if parallel.kind == "hsdp" and there % parallel.replicas:
        raise CogViewError(
            f"parallel.replicas: {there} ranks cannot be divided into {parallel.replicas} replicas"
        )
    if recipe.device not in ("auto", "cpu", "cuda"):
        raise CogViewError(f"device: {recipe.device} is not for several processes; use auto, cpu or cuda")
    if recipe.device != "cpu" and 0 < torch.cuda.device_count() <= local_rank():
        raise CogViewError(
            f"more processes than the {torch.cuda.device_count()} GPUs of this machine were started; "
            "give torchrun --nproc-per-node at most as many"
        )


def check_tensor(recipe: Recipe, kinds: tuple[str, ...], world: int) -> None:
    """Raise CogViewError where layers cannot be split among ``world`` ranks as a recipe asks."""
    tensor = recipe.parallel.tensor
    if tensor == 1:
        return
    if "fsdp" not in kinds:
        raise CogViewError(f"parallel.tensor: {recipe.task} has no transformer's blocks to split; use 1")
    check_groups(world, tensor)
    if recipe.optimizer.kind == "muon":
        raise CogViewError("optimizer.kind: muon does not go with parallel.tensor; use adamw, or tensor 1")
    if getattr(recipe, "lora", None) is not None:
        raise CogViewError("lora does not go with parallel.tensor; adapters are small: use ddp or fsdp")


def check_groups(world: int, tensor: int) -> None:
    """Raise CogViewError where ranks do not come in groups of ``tensor``."""
    if world % tensor:
        raise CogViewError(f"parallel.tensor: {world} ranks cannot be divided into groups of {tensor}")


def check_deepspeed(recipe: Recipe) -> None:
    """Raise CogViewError where a recipe asks of DeepSpeed what only our own strategies do."""
    if recipe.parallel.kind != "deepspeed":
        return
    if find_spec("deepspeed") is None:
        raise CogViewError(
            "parallel.kind: deepspeed is not installed; pip install 'cogview[deepspeed]', or use fsdp"
        )
    for field, asked, why in (
        ("optimizer.kind: muon", recipe.optimizer.kind == "muon", "it shards flat buffers, not matrices"),
        ("precision: fp16", recipe.precision == "fp16", "its fp16 is all-fp16: fp16-o2"),
        ("ema", recipe.ema is not None, "its weights lie in flat buffers"),
        ("guard.spike", bool(recipe.guard.spike), "no update is left out for its loss"),
    ):
        if asked:
            raise CogViewError(f"{field} does not go with parallel.kind deepspeed ({why}); use fsdp")
