"""Checks that a recipe can run on the launched processes."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from cogview.errors import CogViewError
from cogview.training.parallel.ranks import launched_world, local_rank
from cogview.training.recipe import Recipe


def check_launch(recipe: Recipe, kinds: tuple[str, ...]) -> None:
    """Raise CogViewError if the number of processes does not fit a recipe. kinds: those its task supports."""
    world, parallel = launched_world(), recipe.parallel
    if world == 1:
        return
    check_tensor(recipe, kinds, world)
    groups = world // parallel.tensor
    if parallel.kind == "none" and groups > 1:
        raise CogViewError(
            f"{world} processes were started, but parallel.kind is none; "
            "add --set parallel.kind=ddp (or fsdp, hsdp)"
        )
    if parallel.kind not in (*kinds, "none"):
        known = f"with {', '.join(kinds)}" if kinds else "on one process only"
        raise CogViewError(f"parallel.kind: {recipe.task} trains {known}, not with {parallel.kind}")
    if recipe.batch_size < groups:
        raise CogViewError(
            f"batch_size: {recipe.batch_size} sequences cannot be shared by {groups} ranks; "
            f"give at least {groups} (batch_size is of all ranks together)"
        )
    check_deepspeed(recipe)
    if parallel.kind == "hsdp" and groups % parallel.replicas:
        raise CogViewError(
            f"parallel.replicas: {groups} ranks cannot be divided into {parallel.replicas} replicas"
        )
    if recipe.device not in ("auto", "cpu", "cuda"):
        raise CogViewError(f"device: {recipe.device} is not for several processes; use auto, cpu or cuda")
    if recipe.device != "cpu" and 0 < torch.cuda.device_count() <= local_rank():
        raise CogViewError(
            f"more processes than the {torch.cuda.device_count()} GPUs of this machine were started; "
            "give torchrun --nproc-per-node at most as many"
        )


def check_tensor(recipe: Recipe, kinds: tuple[str, ...], world: int) -> None:
    """Raise CogViewError if a recipe's layers cannot be split among ``world`` ranks."""
    tensor = recipe.parallel.tensor
    if tensor == 1:
        return
    if "fsdp" not in kinds:
        raise CogViewError(f"parallel.tensor: {recipe.task} has no transformer's blocks to split; use 1")
    check_groups(world, tensor)
    if recipe.optimizer.kind == "muon":
        raise CogViewError("optimizer.kind: muon does not work with parallel.tensor; use adamw, or tensor 1")
    if getattr(recipe, "lora", None) is not None:
        raise CogViewError("lora does not work with parallel.tensor; adapters are small: use ddp or fsdp")


def check_groups(world: int, tensor: int) -> None:
    """Raise CogViewError if the ranks cannot be divided into groups of ``tensor``."""
    if world % tensor:
        raise CogViewError(f"parallel.tensor: {world} ranks cannot be divided into groups of {tensor}")


def check_deepspeed(recipe: Recipe) -> None:
    """Raise CogViewError if a recipe uses features that DeepSpeed does not support."""
    if recipe.parallel.kind != "deepspeed":
        return
    if find_spec("deepspeed") is None:
        raise CogViewError(
            "parallel.kind: deepspeed is not installed; pip install 'cogview[deepspeed]', or use fsdp"
        )
    for field, used, reason in (
        ("optimizer.kind: muon", recipe.optimizer.kind == "muon", "it shards flat buffers, not matrices"),
        ("precision: fp16", recipe.precision == "fp16", "its fp16 is all-fp16: fp16-o2"),
        ("ema", recipe.ema is not None, "its weights are in flat buffers"),
        ("guard.spike", bool(recipe.guard.spike), "it cannot skip an update because of its loss"),
    ):
        if used:
            raise CogViewError(f"{field} does not work with parallel.kind deepspeed ({reason}); use fsdp")
