"""Going on from a checkpoint on another number of processes than wrote it."""

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
    found: Checkpoint,
    ranks: Ranks,
    strategy: ParallelStrategy,
    average: MovingAverage | None,
    task: Task,
) -> dict[str, Tensor]:
    """Put a checkpoint's tensors in their places; all ranks call it together.

    Returns this rank's random generators, none where another number of ranks wrote it.
    """
    sizes = _sizes(found)
    held = strategy.places(sizes.get("optimizer", {}))
    if average:
        held["ema"] = average.tensors()
    wanted = {group: strategy.blank(named) for group, named in held.items()}
    wanted["task"] = _blank(sizes.get("task", {}))
    mine = f"{ranks.rank}/" if found.sharded else ""
    same = (found.state.ranks, found.state.tensor) == (ranks.world, ranks.tensor)
    generators = sizes.get("rng", {}) if same else {}
    wanted["rng"] = _blank({name: size for name, size in generators.items() if name.startswith(mine)})
    _fill(found, wanted, ranks)
    for group, named in held.items():
        strategy.settle(named, wanted[group])
    strategy.filled(wanted)
    if average:
        average.load(held["ema"])
    task.restore(wanted["task"])
    return {name.removeprefix(mine): value for name, value in wanted["rng"].items()}


def _sizes(found: Checkpoint) -> Mapping[str, Sizes]:
    if not found.sharded:
        return {
            group: {name: (value.shape, value.dtype) for name, value in named.items()}
            for group, named in found.tensors.items()
        }
    from cogview.training.checkpoint.sharded import shard_sizes

    return shard_sizes(found.directory)


def _blank(sizes: Sizes) -> dict[str, Tensor]:
    return {name: torch.empty(size, dtype=dtype) for name, (size, dtype) in sizes.items()}


def _fill(found: Checkpoint, wanted: Mapping[str, Mapping[str, Tensor]], ranks: Ranks) -> None:
    if found.sharded:
        from cogview.training.checkpoint.sharded import read_shards

        read_shards(found.directory, wanted, ranks)
        return
    for group, named in wanted.items():
        for name, place in named.items():
            _put(place, _find(found, group, name))


def _find(found: Checkpoint, group: str, name: str) -> Tensor:
    if name not in found.tensors.get(group, {}):
        raise CogViewError(
            f"{found.directory} has no {name!r}; resume with the recipe that the run was made with"
        )
    return found.tensors[group][name]


def _put(place: Tensor, value: Tensor) -> None:
    """Copy a whole tensor to where it belongs; a DTensor takes this rank's part."""
    if is_sharded(place):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = place.device_mesh, place.placements  # type: ignore[attr-defined]
        value = distribute_tensor(value.to(place.device), mesh, placements, src_data_rank=None)
    place.copy_(value)
