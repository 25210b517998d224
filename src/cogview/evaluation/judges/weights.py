"""Saving, loading and fingerprinting of the judges: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.tensors import load_module

CONFIG, WEIGHTS = "config.json", "model.safetensors"
M = TypeVar("M", bound=nn.Module)
# Bounds for configurations that are read from files.
Widths = Annotated[tuple[Annotated[int, Field(ge=2, le=1 << 13)], ...], Field(min_length=1, max_length=10)]
Depths = Annotated[tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(min_length=1, max_length=10)]


def fingerprint(config: Config, model: nn.Module, more: bytes = b"") -> str:
    """16 hex digits over the configuration without its ``facts``, ``more``, and all weights."""
    digest = hashlib.sha256(config.model_dump_json(exclude={"facts"}).encode() + more)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def save(config: Config, model: nn.Module, directory: Path) -> None:
    """Write both files, the weights first and under a temporary name."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    part = directory / f"{WEIGHTS}.tmp"
    save_file(state, part)
    part.replace(directory / WEIGHTS)
    (directory / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def require(directory: Path, what: str, verb: str) -> None:
    """Raise CogViewError if there are no weights. what: the network; verb: the command that trains it."""
    if not (directory / WEIGHTS).is_file():
        raise CogViewError(f"{directory}: no {what} here; train one with `{verb}`")


def load(make: Callable[[], M], directory: Path, what: str) -> M:
    """Load the network with the weights that :func:`save` wrote; CogViewError if they do not fit."""
    try:
        return load_module(make, directory / WEIGHTS, what)
    except CogViewError as error:
        raise CogViewError(f"{directory}: damaged or not a {what}: {error}") from None
