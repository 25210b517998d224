"""Atomic checkpoints: written to a temporary directory, hashed, flushed and renamed; verified before use.

A checkpoint is a directory ``step-00001200/`` of safetensors files and ``state.json``; ``manifest.json``
contains the size and SHA-256 of each file. Nothing is pickled. A damaged checkpoint is reported and the
previous one is used. This module implements checkpoints written by one process, ``sharded.py`` those written
by many ranks; either can be loaded on any number of processes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.files import read_bytes
from cogview.training.divergence import GuardState
from cogview.training.precision import LossScaler

MANIFEST, STATE = "manifest.json", "state.json"
MAX_MANIFEST, MAX_STATE = 64 << 20, 1 << 30  # bytes
NAME = re.compile(r"step-(\d{8,})")
PART = ".part"


class TrainState(Config):
    """The state of a run except tensors.

    ``loader``: the data loader's state after the last batch used; ``window``: metrics since the last log
    line; ``skipped``: number of consecutive skipped updates; ``guard``: state of the loss monitor; ``ranks``:
    number of processes that wrote the checkpoint; ``tensor``: number of neighbours that shared a layer.
    """

    format: Literal[1] = 1
    step: int = Field(ge=0)
    seconds: float = Field(0.0, ge=0)
    items: int = Field(0, ge=0)
    skipped: int = Field(0, ge=0)
    loader: dict[str, Any] | None = None
    random: dict[str, Any] = Field(default_factory=dict)
    scalers: dict[str, LossScaler] = Field(default_factory=dict)
    window: dict[str, list[float]] = Field(default_factory=dict)
    guard: GuardState = GuardState()
    ranks: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)


class FileRecord(Config):
    """Size and SHA-256 of a file."""

    bytes: int = Field(ge=0)
    sha256: str


class Manifest(Config):
    """The files of a checkpoint; ``sharded``: its tensors are spread over them."""

    format: Literal[1] = 1
    files: dict[str, FileRecord]
    sharded: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: its state and its tensors by group ("model", "optimizer", "ema", …).

    ``sharded``: its tensors are still on disk, for ``sharded.read_shards``.
    """

    directory: Path
    state: TrainState
    tensors: dict[str, dict[str, Tensor]]
    sharded: bool = False


def save_checkpoint(directory: Path, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Write ``directory/step-…`` atomically and return it. Empty tensor groups are omitted.

    Raises CogViewError if it cannot be written; existing checkpoints are kept.
    """
    try:
        return _save(directory / f"step-{state.step:08d}", state, tensors)
    except (OSError, SafetensorError) as error:
        raise CogViewError(
            f"no checkpoint could be written to {directory} ({error}); make room and resume"
        ) from error


def _save(final: Path, state: TrainState, tensors: Mapping[str, Mapping[str, Tensor]]) -> Path:
    part = final.with_name(final.name + PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name, group in tensors.items():
        if group:
            save_file(
                {key: value.detach().cpu().contiguous() for key, value in group.items()},
                part / f"{name}.safetensors",
            )
    (part / STATE).write_text(state.model_dump_json(), encoding="utf-8")
    seal(part, final, {path.name: record(path) for path in sorted(part.iterdir())})
    return final


def seal(part: Path, final: Path, records: dict[str, FileRecord], sharded: bool = False) -> None:
    """Write the manifest to a finished ``part``, flush everything to disk, and rename it to ``final``."""
    manifest = Manifest(files=records, sharded=sharded)
    (part / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    for path in [*part.iterdir(), part]:
        flush(path)
    shutil.rmtree(final, ignore_errors=True)
    part.replace(final)
    flush(final.parent)


def flush(path: Path) -> None:
    """Flush a file or directory to disk.

    Windows only flushes files that are open for writing, and no directories.
    """
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def record(path: Path) -> FileRecord:
    """The size and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRecord(bytes=path.stat().st_size, sha256=digest)


def list_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints in a directory, oldest first (not verified)."""
    if not directory.is_dir():
        return []
    paths = [path for path in directory.iterdir() if path.is_dir() and NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.name[5:]))


def prune(directory: Path, keep: int, every: int = 0) -> None:
    """Remove all but the last ``keep`` checkpoints, and the remains of interrupted writes.

    Checkpoints at multiples of ``every`` steps are also kept (0: none).
    """
    for path in list_checkpoints(directory)[:-keep]:
        if not every or int(path.name[5:]) % every:
            shutil.rmtree(path, ignore_errors=True)
    for path in directory.glob(f"step-*{PART}"):
        shutil.rmtree(path, ignore_errors=True)


def set_aside(directory: Path, step: int) -> None:
    """Rename (damaged) checkpoints after ``step`` to ``damaged-step-…``, to make room for new ones."""
    for path in list_checkpoints(directory):
        if int(path.name[5:]) > step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.replace(aside)


def damage(path: Path, rank: int = 0, world: int = 1) -> str | None:
    """The damage of a checkpoint in a few words, or None if it is intact.

    ``rank`` of ``world`` only checks its part of the files.
    """
    try:
        manifest = Manifest.model_validate_json(read_bytes(path / MANIFEST, MAX_MANIFEST))
    except CogViewError:
        return f"{MANIFEST} is missing"
    except ValidationError:
        return f"{MANIFEST} is unreadable"
    for name, expected in list(manifest.files.items())[rank::world]:
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != expected.bytes:
            return f"{name} has {file.stat().st_size} bytes instead of {expected.bytes}"
        if record(file).sha256 != expected.sha256:
            return f"{name} differs from its SHA-256"
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read an undamaged checkpoint (see :func:`damage`); raises CogViewError if it has another format."""
    try:
        state = TrainState.model_validate_json(read_bytes(path / STATE, MAX_STATE))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CogViewError(
            f"{path / STATE}: {field}: {first['msg']}; it was written by another version"
        ) from error
    if Manifest.model_validate_json(read_bytes(path / MANIFEST, MAX_MANIFEST)).sharded:
        return Checkpoint(path, state, {}, sharded=True)
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Checkpoint(path, state, tensors)


def latest_checkpoint(
    directory: Path,
    warn: Callable[[str], None],
    inspect: Callable[[Path], str | None] = damage,
    upto: int | None = None,
) -> Checkpoint | None:
    """The latest undamaged checkpoint, or None if there is none; ``warn`` receives a line for each damaged
    one.

    ``inspect`` returns the damage of a checkpoint; ``upto``: latest step to consider. Raises CogViewError if
    there are checkpoints and all are damaged.
    """
    paths = [path for path in list_checkpoints(directory) if upto is None or int(path.name[5:]) <= upto]
    for path in reversed(paths):
        problem = inspect(path)
        if problem is None:
            return read_checkpoint(path)
        warn(f"checkpoint {path} is damaged ({problem}); trying the one before it")
    if paths:
        raise CogViewError(
            f"every checkpoint in {directory} is damaged; start the run again in another directory"
        )
    return None
