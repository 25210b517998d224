"""The processes (ranks) of a run and their collective operations.

``torchrun``, ``srun`` or another launcher starts them with environment variables (``RANK``, ``WORLD_SIZE``,
``LOCAL_RANK``). Collectives use NCCL on GPUs and gloo on CPUs. The checkpoint thread uses a separate process
group, because collectives of two threads must not interleave.
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

# Destroyed groups, kept to the end of the process. A gloo thread may need the interpreter lock to release a
# tensor; if DDP's reducer drops the last reference to its group, it waits for that thread while holding the
# lock, a deadlock. Dropping a group from Python releases the lock first. This has to happen before the
# interpreter shuts down: a thread that needs it later aborts the process.
_DESTROYED: list[Any] = []


@atexit.register
def _drop_destroyed_groups() -> None:
    if _DESTROYED:
        gc.collect()  # reducers first
        _DESTROYED.clear()


class ElsewhereError(CogViewError):
    """Another rank failed with a user error, which it reports itself."""


def launched_rank() -> int:
    """This process's rank from the environment; 0 if it runs alone."""
    return int(os.environ.get("RANK", "0"))


def launched_world() -> int:
    """The number of processes from the environment; 1 if this one runs alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """This process's rank on its machine, from the environment."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def restarted() -> bool:
    """Whether torchrun has restarted these processes after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@dataclass(frozen=True)
class Ranks:
    """This process among ``world``; with one process no collectives are used.

    ``side``: the process group of the checkpoint thread. ``tensor``: the number of neighbours that share each
    layer, and therefore the rows of a batch.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    side: Any = None
    tensor: int = 1

    @classmethod
    def join(cls, device: torch.device, minutes: float, tensor: int = 1) -> Ranks:
        """Join the process group of the environment; ``minutes`` is the timeout of collectives.

        Raises CogViewError if the processes cannot connect.
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
                _init_group(backend, limit)
            side = dist.new_group(backend="gloo", timeout=limit)
        except (RuntimeError, ValueError) as error:
            raise CogViewError(
                f"rank {launched_rank()} of {world} could not connect to the others ({_first_line(error)}); "
                "start all of them by torchrun with the same --rdzv-endpoint"
            ) from error
        return cls(dist.get_rank(), world, device, side, tensor)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes logs, samples and the model."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """The index of this rank's part of every batch, and the number of parts."""
        return self.rank // self.tensor, self.world // self.tensor

    @property
    def counts(self) -> bool:
        """Whether this rank is the first of those that share its rows, so that rows are counted once."""
        return self.rank % self.tensor == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather_rows(self, rows: Tensor, count: int) -> Tensor:
        """Gather the ``count`` rows of a batch, of which each rank has every ``world``-th."""
        if self.world == 1:
            return rows
        padded = rows.new_zeros(-(-count // self.world), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:count]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Copy the tensors of rank 0 to all ranks, in place."""
        for value in tensors if self.world > 1 else ():
            dist.broadcast(value.detach(), 0)

    def maximum(self, values: Sequence[int]) -> list[int]:
        """The elementwise maximum over all ranks."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return [int(value) for value in tensor.tolist()]

    def on_all(self, action: Callable[[], T]) -> T:
        """Run ``action`` on all ranks, return this rank's result; a CogViewError on one is raised on all."""
        result, error = _attempt(action)
        if self.world > 1:
            failed: list[bool] = [False] * self.world
            dist.all_gather_object(failed, error is not None)
            if any(failed) and error is None:
                raise ElsewhereError(f"rank {failed.index(True)} failed")
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def on_first(self, action: Callable[[], T]) -> T:
        """Run ``action`` on rank 0 and return its result on all; a CogViewError there is raised on all."""
        if self.world == 1:
            return action()
        message: list[Any] = [None, None]
        error = None
        if self.first:
            message[0], error = _attempt(action)
            message[1] = None if error is None else str(error)
        dist.broadcast_object_list(message, 0)
        if error is not None:
            raise error
        if message[1] is not None:
            raise ElsewhereError(message[1])
        return message[0]  # type: ignore[no-any-return]

    def leave(self) -> None:
        """Destroy the process group."""
        if self.world > 1 and dist.is_initialized():
            _DESTROYED.extend((dist.group.WORLD, self.side))
            dist.destroy_process_group()


def _init_group(backend: str, limit: timedelta) -> None:
    """Create the default group, without stale keys from before a restart in torchrun's store.

    On one node torchrun's agent keeps its store across restarts of the processes, and a new process might
    find the address of a dead one there. So each restart uses its own key prefix. Agents of several nodes
    count restarts separately; there the store has to be new (docs/parallel-training.md).
    """
    if not (restarted() and os.environ.get("GROUP_WORLD_SIZE") == "1"):
        dist.init_process_group(backend, timeout=limit)
        return
    store, rank, world = next(rendezvous("env://", timeout=limit))
    prefixed = dist.PrefixStore(  # type: ignore[attr-defined]
        f"start-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store
    )
    dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world, timeout=limit)


def _attempt(action: Callable[[], T]) -> tuple[T | None, CogViewError | None]:
    try:
        return action(), None
    except CogViewError as error:
        return None, error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
