"""Checkpoints that many ranks write together, by torch.distributed.checkpoint (DCP), in safetensors files.

Every rank writes what it holds (what all hold is shared out among them) to ``shard-00001-….safetensors``, in
whose header DCP notes where each piece belongs in its tensor; so any number of ranks reads any checkpoint, a
process alone too. DCP's usual format pickles its index; this one pickles nothing. Rank 0 adds ``state.json``
and the manifest and gives the directory its name when all files are there, hashed and flushed.
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

SCALAR = "@scalar"  # ends the name of a tensor without dimensions, which is kept as one of one element


def write_shards(
    directory: Path, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]], ranks: Ranks
) -> Path:
    """Write ``directory/step-…`` together and return it; every rank calls this, over the side group.

    tensors: by group and name; DTensors, or tensors that are the same on all ranks, or names that only one
    rank has. Raises CogViewError on all ranks where it cannot be written; what was there before stays.
    """
    final = directory / f"step-{state.step:08d}"
    part = final.with_name(final.name + PART)
    _on_first(ranks, lambda: _begin(part, directory))
    flat = {
        _key(group, name, value): value.detach().reshape(1) if value.dim() == 0 else _packed(value.detach())
        for group, named in tensors.items()
        for name, value in named.items()
    }
    records = _together(ranks, lambda: _write(part, flat, ranks), directory)
    _on_first(ranks, lambda: _finish(part, final, state, records))
    return final


def _key(group: str, name: str, value: Tensor) -> str:
    return f"{group}|{name}{SCALAR if value.dim() == 0 else ''}"


def _packed(value: Tensor) -> Tensor:
    """As safetensors wants it, row by row in memory; convolutions have their channels last."""
    return value if is_sharded(value) else value.contiguous()


def _begin(part: Path, directory: Path) -> None:
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    except OSError as error:
        raise _no_room(directory, error) from error


def _write(part: Path, flat: dict[str, Tensor], ranks: Ranks) -> dict[str, FileRecord]:
    """DCP's part; returns the records of this rank's files."""
    writer = HuggingFaceStorageWriter(str(part), save_distributed=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # DCP remarks that there is one process
        save(flat, storage_writer=writer, process_group=ranks.side, no_dist=ranks.world == 1)
    own = sorted(part.glob(f"shard-{ranks.rank + 1:05d}-*.safetensors"))
    return {path.name: record(path) for path in own}


def _finish(part: Path, final: Path, state: TrainState, records: dict[str, FileRecord]) -> None:
    try:
        (part / STATE).write_text(state.model_dump_json(), encoding="utf-8")
        seal(part, final, {**records, STATE: record(part / STATE)}, sharded=True)
    except OSError as error:
        raise _no_room(final.parent, error) from error


def _no_room(directory: Path, error: BaseException) -> CogViewError:
    cause = _cause(error)
    return CogViewError(f"no checkpoint could be written to {directory} ({cause}); make room and resume")


def _cause(error: BaseException) -> str:
    """The first rank's own error in what DCP collects from all, in one line."""
    failures = getattr(error, "failures", None)
    if failures:
        error = next(iter(failures.values()))[0]
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------------------------------------- together


def _on_first(ranks: Ranks, action: Any) -> None:
    """Do it on rank 0; a CogViewError there is one on all ranks."""
    told: list[str | None] = [None]
    if ranks.first:
        try:
            action()
        except CogViewError as error:
            told = [str(error)]
    if ranks.world > 1:
        dist.broadcast_object_list(told, 0, group=ranks.side)
    if told[0] is not None:
        raise (CogViewError if ranks.first else ElsewhereError)(told[0])


def _together(ranks: Ranks, action: Any, directory: Path) -> dict[str, FileRecord]:
    """Do it on every rank and put together what they give; one rank's error is all ranks'."""
    found: tuple[dict[str, FileRecord], str | None]
    try:
        found = (action(), None)
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        found = ({}, str(_no_room(directory, error)))
    all_found = [found] * ranks.world
    if ranks.world > 1:
        dist.all_gather_object(all_found, found, group=ranks.side)
    said = [error for _, error in all_found if error is not None]
    if said:
        raise (CogViewError if ranks.first else ElsewhereError)(said[0])
    return {name: item for records, _ in all_found for name, item in records.items()}


def inspect_together(path: Path, ranks: Ranks) -> str | None:
    """As :func:`~cogview.training.checkpoint.damage`, each rank looking at some of the files."""
    found: list[str | None] = [damage(path, ranks.rank, ranks.world)] * ranks.world
    if ranks.world > 1:
        dist.all_gather_object(found, found[ranks.rank])
    return next((problem for problem in found if problem is not None), None)


# ---------------------------------------------------------------------------------------------- reading


def shard_sizes(path: Path) -> dict[str, dict[str, tuple[torch.Size, torch.dtype]]]:
    """Shape and type of every tensor of a checkpoint, by group and name."""
    found: dict[str, dict[str, tuple[torch.Size, torch.dtype]]] = {}
    for key, facts in HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata.items():
        group, _, name = key.partition("|")
        size = torch.Size([]) if name.endswith(SCALAR) else facts.size  # type: ignore[union-attr]
        found.setdefault(group, {})[name.removesuffix(SCALAR)] = (size, facts.properties.dtype)  # type: ignore[union-attr]
    return found


def read_shards(path: Path, into: Mapping[str, Mapping[str, Tensor]], ranks: Ranks) -> None:
    """Fill tensors (by group and name; DTensors get this rank's part) from a verified checkpoint.

    Raises CogViewError where it lacks one of them or one has another shape.
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
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        raise CogViewError(
            f"{path} does not fit this run ({_cause(error)}); resume with the recipe it was made with"
        ) from error
