"""An image tokenizer on disk: ``config.json`` and ``model.safetensors``, compared before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.tensors import load_tensors, misfit, open_tensors, shapes

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_weights(
    directory: str | Path, config: Config, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write both files; the weights, as ``dtype``, appear whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{WEIGHTS}.tmp"
    save_file({name: x.detach().to("cpu", dtype).contiguous() for name, x in state.items()}, partial)
    (directory / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    partial.replace(directory / WEIGHTS)


def load_weights(directory: str | Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a directory; their names and shapes are those of ``expected``.

    Raises:
        CogViewError: missing, damaged, or another model's; said before any weight is read.
    """
    path = Path(directory) / WEIGHTS
    with open_tensors(path) as file:
        wrong = misfit(shapes(file), expected)
    if wrong:
        raise CogViewError(f"{path} does not fit its {CONFIG}: {wrong}")
    found = load_tensors(path)
    other = next((name for name, x in found.items() if not x.is_floating_point()), None)
    if other is not None:
        raise CogViewError(f"{path}: {other} holds no floats")
    return found
