"""The processes of one run: who they are, and the few things they have to agree on.

``torchrun`` starts them and tells each by environment variables which it is (``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``); so may ``srun`` or anything else. Collectives go over NCCL on GPUs and gloo on CPUs. What the
checkpoint's thread says goes over a group of its own, because collectives of two threads must not mix.
"""

from __future__ import annotations

import atexit
import gc
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from cogview.errors import CogViewError

T = TypeVar("T")
CPU = torch.device("cpu")

# Groups that were left, kept to the end of the process. A thread of gloo's may need the interpreter to let go
# of a tensor; if DDP's reducer drops the last reference to its group it waits for that thread with the
# interpreter locked, and both wait forever. Dropped from Python, a group unlocks it first. That has to happen
# before the interpreter goes: a thread that needs it later aborts the process.
_LEFT: list[Any] = []


@atexit.register
def _drop_left_groups() -> None:
    if _LEFT:
        gc.collect()  # reducers first
        _LEFT.clear()


class ElsewhereError(CogViewError):
    """Another rank failed with a user's error, and says so itself."""


def launched_rank() -> int:
    """This process's rank by its environment; 0 where it runs alone."""
    return int(os.environ.get("RANK", "0"))


def launched_world() -> int:
    """The number of processes by the environment; 1 where this one runs alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's number among those on its machine, by the environment."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarted() -> bool:
    """Whether torchrun started these processes again after one of them had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@dataclass(frozen=True)
class Ranks:
    """This process among ``world``; a process alone agrees with itself without asking.

    ``side`` is the group of the checkpoint's thread. ``tensor`` neighbours share each layer, and so the rows
    of a batch.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    side: Any = None
    tensor: int = 1

    @classmethod
    def join(cls, device: torch.device, minutes: float, tensor: int = 1) -> Ranks:
        """Meet the other processes that the environment names; ``minutes`` without an answer end the run.

        Raises CogViewError where they do not meet.
        """
        world = launched_world()
        if world == 1:
            return cls(device=device)
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        limit = timedelta(minutes=minutes)
        try:
            if not dist.is_initialized():
                _meet(backend, limit)
            side = dist.new_group(backend="gloo", timeout=limit)
        except (RuntimeError, ValueError) as error:
            raise CogViewError(
                f"rank {launched_rank()} of {world} could not meet the others ({_first_line(error)}); "
                "start all of them by torchrun with the same --rdzv-endpoint"
            ) from error
        return cls(dist.get_rank(), world, device, side, tensor)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which alone writes logs, samples and the model."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """Which part of every batch is this rank's, and of how many."""
        return self.rank // self.tensor, self.world // self.tensor

    @property
    def counts(self) -> bool:
        """Whether this rank's rows are no other rank's too, or it is the first of those that share them."""
        return self.rank % self.tensor == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def rows(self, own: Tensor, count: int) -> Tensor:
        """The ``count`` rows of a batch of which a rank holds every ``world``-th, from its own number on."""
        if self.world == 1:
            return own
        padded = own.new_zeros(-(-count // self.world), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:count]

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """Give all ranks what rank 0 holds, in place."""
        for value in tensors if self.world > 1 else ():
            dist.broadcast(value.detach(), 0)

    def highest(self, values: Sequence[int]) -> list[int]:
        """The highest number any rank gave, place by place."""
        if self.world == 1:
            return list(values)
        held = torch.tensor(values, device=self.device)
        dist.all_reduce(held, dist.ReduceOp.MAX)
        return [int(value) for value in held.tolist()]

    def together(self, action: Callable[[], T]) -> T:
        """What ``action`` gives on each rank; a CogViewError on one of them is one on all."""
        result, error = _attempt(action)
        if self.world > 1:
            failed: list[bool] = [False] * self.world
            dist.all_gather_object(failed, error is not None)
            if any(failed) and error is None:
                raise ElsewhereError(f"rank {failed.index(True)} failed")
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def lead(self, action: Callable[[], T]) -> T:
        """What ``action`` returns on rank 0, sent to all; a CogViewError there is one on all."""
        if self.world == 1:
            return action()
        told: list[Any] = [None, None]
        error = None
        if self.first:
            told[0], error = _attempt(action)
            told[1] = None if error is None else str(error)
        dist.broadcast_object_list(told, 0)
        if error is not None:
            raise error
        if told[1] is not None:
            raise ElsewhereError(told[1])
        return told[0]  # type: ignore[no-any-return]

    def leave(self) -> None:
        """Say goodbye to the others."""
        if self.world > 1 and dist.is_initialized():
            _LEFT.extend((dist.group.WORLD, self.side))
            dist.destroy_process_group()


def _meet(backend: str, limit: timedelta) -> None:
    """Form the default group, past what the processes before a restart left in torchrun's store.

    On one node torchrun's agent keeps its store from one start of the processes to the next, and a new
    process may find the address of a dead one there. So each start has keys of its own. Agents of several
    nodes count their restarts each for itself; there the store has to be new (docs/parallel-training.md).
    """
    if not (restarted() and os.environ.get("GROUP_WORLD_SIZE") == "1"):
        dist.init_process_group(backend, timeout=limit)
        return
    store, rank, world = next(rendezvous("env://", timeout=limit))
    kept = dist.PrefixStore(  # type: ignore[attr-defined]
        f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store
    )
    dist.init_process_group(backend, store=kept, rank=rank, world_size=world, timeout=limit)


def _attempt(action: Callable[[], T]) -> tuple[T | None, CogViewError | None]:
    try:
        return action(), None
    except CogViewError as error:
        return None, error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
