"""The networks that judge pictures, on disk: ``config.json``, ``model.safetensors``; their fingerprint."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cogview.config import Config
from cogview.errors import CogViewError

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def fingerprint(config: Config, model: nn.Module, more: bytes = b"") -> str:
    """16 hex digits over the configuration but its ``facts``, ``more``, and all weights."""
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
    """Raise CogViewError where there are no weights. what: the network; verb: the command that makes one."""
    if not (directory / WEIGHTS).is_file():
        raise CogViewError(f"{directory}: no {what} here; make one with `{verb}`")


def load(model: nn.Module, directory: Path, what: str) -> None:
    """Read the weights that :func:`save` wrote; CogViewError where they are damaged or another network's."""
    try:
        model.load_state_dict(load_file(directory / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise CogViewError(f"{directory}: damaged or foreign {what}: {reason}") from None
