"""Sharded checkpoints, written by many ranks with torch.distributed.checkpoint (DCP) in safetensors files.

Every rank writes its shards (replicated tensors are distributed among the ranks) to
``shard-00001-….safetensors``, in whose header DCP records the offset of each shard in its tensor; so any
number of ranks, also a single process, can load any checkpoint. DCP's usual format pickles its index; this
one pickles nothing. Rank 0 adds ``state.json`` and the manifest and renames the directory when all files are
written, hashed and flushed.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import (
    PART,
    STATE,
    FileRecord,
    TrainState,
    damage,
    record,
    seal,
)
from cogview.training.optim import is_sharded
from cogview.training.parallel.ranks import ElsewhereError, Ranks

SCALAR = "@scalar"  # suffix of a 0-dimensional tensor's name, which is stored with one element


def write_shards(
    directory: Path, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]], ranks: Ranks
) -> Path:
    """Write ``directory/step-…`` from all ranks and return it; every rank calls this, using the side group.

    tensors: by group and name; DTensors, tensors that are equal on all ranks, or tensors that only one rank
    has. Raises CogViewError on all ranks if it cannot be written; existing checkpoints are kept.
    """
    final = directory / f"step-{state.step:08d}"
    part = final.with_name(final.name + PART)
    _on_first(ranks, lambda: _begin(part, directory))
    flat = {
        _key(group, name, value): value.detach().reshape(1) if value.dim() == 0 else _packed(value.detach())
        for group, named in tensors.items()
        for name, value in named.items()
    }
    records = _on_all(ranks, lambda: _write(part, flat, ranks), directory)
    _on_first(ranks, lambda: _finish(part, final, state, records))
    return final


def _key(group: str, name: str, value: Tensor) -> str:
    return f"{group}|{name}{SCALAR if value.dim() == 0 else ''}"


def _packed(value: Tensor) -> Tensor:
    """Contiguous, as safetensors requires; convolutions have their channels last."""
    return value if is_sharded(value) else value.contiguous()


def _begin(part: Path, directory: Path) -> None:
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise _write_error(directory, error) from error


def _write(part: Path, flat: dict[str, Tensor], ranks: Ranks) -> dict[str, FileRecord]:
    """Save with DCP; returns the records of this rank's files."""
    writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP warns if there is only one process
        save(flat, storage_writer=writer, process_group=ranks.side, no_dist=ranks.world == 1)
    files = sorted(part.glob(f"shard-{ranks.rank + 1:05d}-*.safetensors"))
    return {path.name: record(path) for path in files}


def _finish(part: Path, final: Path, state: TrainState, records: dict[str, FileRecord]) -> None:
    try:
        (part / STATE).write_text(state.model_dump_json(), encoding="utf-8")
        seal(part, final, {**records, STATE: record(part / STATE)}, sharded=True)
    except OSError as error:
        raise _write_error(final.parent, error) from error


def _write_error(directory: Path, error: BaseException) -> CogViewError:
    cause = _cause(error)
    return CogViewError(f"no checkpoint could be written to {directory} ({cause}); make room and resume")


def _cause(error: BaseException) -> str:
    """The first of the errors that DCP collects from all ranks, in one line."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------------------------------------- collectives


def _on_first(ranks: Ranks, action: Any) -> None:
    """Run ``action`` on rank 0; a CogViewError there is raised on all ranks."""
    message: list[str | None] = [None]
    if ranks.first:
        try:
            action()
        except CogViewError as error:
            message = [str(error)]
    if ranks.world > 1:
        dist.broadcast_object_list(message, 0, group=ranks.side)
    if message[0] is not None:
        raise (CogViewError if ranks.first else ElsewhereError)(message[0])


def _on_all(ranks: Ranks, action: Any, directory: Path) -> dict[str, FileRecord]:
    """Run ``action`` on every rank and merge the results; an error on one rank is raised on all."""
    result: tuple[dict[str, FileRecord], str | None]
    try:
        result = (action(), None)
    except (Exception, CheckpointException) as error:  # CheckpointException is no Exception
        result = ({}, str(_write_error(directory, error)))
    results = [result] * ranks.world
    if ranks.world > 1:
        dist.all_gather_object(results, result, group=ranks.side)
    errors = [error for _, error in results if error is not None]
    if errors:
        raise (CogViewError if ranks.first else ElsewhereError)(errors[0])
    return {name: item for records, _ in results for name, item in records.items()}


def inspect_together(path: Path, ranks: Ranks) -> str | None:
    """As :func:`~cogview.training.checkpoint.damage`, with the files distributed among the ranks."""
    problems: list[str | None] = [damage(path, ranks.rank, ranks.world)] * ranks.world
    if ranks.world > 1:
        dist.all_gather_object(problems, problems[ranks.rank])
    return next((problem for problem in problems if problem is not None), None)


# ---------------------------------------------------------------------------------------------- reading


def shard_sizes(path: Path) -> dict[str, dict[str, tuple[torch.Size, torch.dtype]]]:
    """Shape and dtype of every tensor of a checkpoint, by group and name."""
    sizes: dict[str, dict[str, tuple[torch.Size, torch.dtype]]] = {}
    for key, entry in HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata.items():
        group, _, name = key.partition("|")
        size = torch.Size([]) if name.endswith(SCALAR) else entry.size  # type: ignore[union-attr]
        sizes.setdefault(group, {})[name.removesuffix(SCALAR)] = (size, entry.properties.dtype)  # type: ignore[union-attr]
    return sizes


def read_shards(path: Path, into: Mapping[str, Mapping[str, Tensor]], ranks: Ranks) -> None:
    """Load tensors (by group and name; DTensors receive this rank's part) from a verified checkpoint.

    Raises CogViewError if one of them is missing or has another shape.
    """
    flat = {
        _key(group, name, value): value.detach().reshape(1) if value.dim() == 0 else value.detach()
        for group, named in into.items()
        for name, value in named.items()
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(
                flat,
                storage_reader=HuggingFaceStorageReader(str(path)),
                process_group=ranks.side,
                no_dist=ranks.world == 1,
            )
    except (Exception, CheckpointException) as error:  # CheckpointException is no Exception
        raise CogViewError(
            f"{path} does not fit this run ({_cause(error)}); resume with the recipe it was made with"
        ) from error
