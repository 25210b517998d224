"""Restore a checkpoint on any number of processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import Checkpoint
from cogview.training.ema import MovingAverage
from cogview.training.optim import is_sharded
from cogview.training.parallel.ranks import Ranks
from cogview.training.parallel.strategy import ParallelStrategy, Sizes
from cogview.training.task import Task


@torch.no_grad()
def restore(
    checkpoint: Checkpoint,
    ranks: Ranks,
    strategy: ParallelStrategy,
    average: MovingAverage | None,
    task: Task,
) -> dict[str, Tensor]:
    """Load a checkpoint's tensors; all ranks call it together.

    Returns this rank's random generators, empty if another number of ranks wrote the checkpoint.
    """
    sizes = _sizes(checkpoint)
    destinations = strategy.destinations(sizes.get("optimizer", {}))
    if average:
        destinations["ema"] = average.tensors()
    buffers = {group: strategy.load_buffers(named) for group, named in destinations.items()}
    buffers["task"] = _empty(sizes.get("task", {}))
    prefix = f"{ranks.rank}/" if checkpoint.sharded else ""
    same = (checkpoint.state.ranks, checkpoint.state.tensor) == (ranks.world, ranks.tensor)
    generators = sizes.get("rng", {}) if same else {}
    buffers["rng"] = _empty({name: size for name, size in generators.items() if name.startswith(prefix)})
    _load(checkpoint, buffers, ranks)
    for group, named in destinations.items():
        strategy.from_buffers(named, buffers[group])
    strategy.after_load(buffers)
    if average:
        average.load(destinations["ema"])
    task.restore(buffers["task"])
    return {name.removeprefix(prefix): value for name, value in buffers["rng"].items()}


def _sizes(checkpoint: Checkpoint) -> Mapping[str, Sizes]:
    if not checkpoint.sharded:
        return {
            group: {name: (value.shape, value.dtype) for name, value in named.items()}
            for group, named in checkpoint.tensors.items()
        }
    from cogview.training.checkpoint.sharded import shard_sizes

    return shard_sizes(checkpoint.directory)


def _empty(sizes: Sizes) -> dict[str, Tensor]:
    return {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes.items()}


def _load(checkpoint: Checkpoint, buffers: Mapping[str, Mapping[str, Tensor]], ranks: Ranks) -> None:
    if checkpoint.sharded:
        from cogview.training.checkpoint.sharded import read_shards

        read_shards(checkpoint.directory, buffers, ranks)
        return
    for group, named in buffers.items():
        for name, destination in named.items():
            _copy(destination, _find(checkpoint, group, name))


def _find(checkpoint: Checkpoint, group: str, name: str) -> Tensor:
    if name not in checkpoint.tensors.get(group, {}):
        raise CogViewError(
            f"{checkpoint.directory} has no {name!r}; resume with the recipe that the run was made with"
        )
    return checkpoint.tensors[group][name]


def _copy(destination: Tensor, value: Tensor) -> None:
    """Copy an unsharded tensor to its destination; a DTensor receives this rank's part."""
    if is_sharded(destination):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = destination.device_mesh, destination.placements  # type: ignore[attr-defined]
        value = distribute_tensor(value.to(destination.device), mesh, placements, src_data_rank=None)
    destination.copy_(value)
