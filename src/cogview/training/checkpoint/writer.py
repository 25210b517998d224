"""Synchronous or background checkpoint writer.

In background mode the training thread only copies the tensors; a thread writes, hashes and flushes them. Only
one checkpoint is written at a time: the next one waits for it, and raises its error, on all ranks at the same
step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from cogview.training.checkpoint.directory import TrainState, prune, save_checkpoint
from cogview.training.parallel.ranks import Ranks

Tensors = Mapping[str, Mapping[str, Tensor]]


class CheckpointWriter:
    """Writes checkpoints to a directory and removes old ones.

    sharded: in the format that many ranks write; background: in a thread; keep, every: see ``prune``.
    """

    def __init__(
        self, directory: Path, ranks: Ranks, *, sharded: bool, background: bool, keep: int, every: int
    ) -> None:
        self.directory, self.ranks, self.sharded = directory, ranks, sharded
        self.keep, self.every = keep, every
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._stage = _stager() if background and sharded else _copy
        self._pending: Future[Path] | None = None

    def save(self, state: TrainState, tensors: Tensors) -> None:
        """Write a checkpoint, or begin to; raises CogViewError if this or the last one cannot be written."""
        self.wait()
        if self._thread is None:
            self._write(state, tensors)
        else:
            self._pending = self._thread.submit(self._write, state, self._stage(tensors))

    def wait(self) -> None:
        """Wait for the pending checkpoint, if any; raises CogViewError if it could not be written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, state: TrainState, tensors: Tensors) -> Path:
        if self.sharded:
            from cogview.training.checkpoint.sharded import write_shards

            path = write_shards(self.directory, state, tensors, self.ranks)
        else:
            path = save_checkpoint(self.directory, state, tensors)
        if self.ranks.first:
            prune(self.directory, self.keep, self.every)
        return path


def _copy(tensors: Tensors) -> Tensors:
    """Copy tensors to main memory."""
    return {
        group: {name: value.detach().to("cpu", copy=True) for name, value in named.items()}
        for group, named in tensors.items()
    }


def _stager() -> Callable[[Tensors], Tensors]:
    """DCP's stager, which copies this rank's shards to reused buffers."""
    from torch import cuda
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

    has_cuda = cuda.is_available()
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=has_cuda,
            use_shared_memory=False,
            use_async_staging=False,
            use_non_blocking_copy=has_cuda,
        )
    )

    def stage(tensors: Tensors) -> Tensors:
        plain: dict[str, Any] = {group: dict(named) for group, named in tensors.items()}
        staged: Tensors = stager.stage(plain)  # type: ignore[assignment]
        return staged

    return stage
