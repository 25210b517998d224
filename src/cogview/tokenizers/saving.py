"""An image tokenizer on disk: ``config.json`` and ``model.safetensors``, compared before it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.tensors import SCALE, load_tensors, open_tensors, pack_int8, shape_mismatch, shapes, unpack_int8

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FINGERPRINT = "fingerprint"  # in a file's metadata
CONVOLUTIONS = (4,)  # dimensions of their weights


def save_weights(
    directory: str | Path,
    config: Config,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    fingerprint: str | None = None,
) -> None:
    """Write both files; the weights, as ``dtype``, appear whole or not at all.

    torch.int8 rounds the convolutions (:mod:`cogview.tensors`). ``fingerprint`` is kept in the file: that of
    the tokenizer before it was rounded, whose codes these are.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if dtype == torch.int8:
        tensors = pack_int8(state, CONVOLUTIONS)
    else:
        tensors = {name: x.detach().to("cpu", dtype).contiguous() for name, x in state.items()}
    partial = directory / f"{WEIGHTS}.tmp"
    save_file(tensors, partial, {FINGERPRINT: fingerprint} if fingerprint else None)
    (directory / CONFIG).write_text(config.model_dump_json(indent=2) + "\n")
    partial.replace(directory / WEIGHTS)


def load_weights(directory: str | Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in a directory, floats; their names and shapes are those of ``expected``.

    Raises:
        CogViewError: missing, damaged, or another model's; said before any weight is read.
    """
    path = Path(directory) / WEIGHTS
    with open_tensors(path) as file:
        there = shapes(file)
    scales = {
        name + SCALE: x.flatten(1)[:, 0]
        for name, x in expected.items()
        if x.ndim in CONVOLUTIONS and name + SCALE in there
    }
    if wrong := shape_mismatch(there, {**expected, **scales}):
        raise CogViewError(f"{path} does not fit its {CONFIG}: {wrong}")
    found = load_tensors(path)
    for name, x in found.items():
        rounded = name + SCALE in scales
        if not (x.dtype == torch.int8 if rounded else x.is_floating_point()):
            raise CogViewError(f"{path}: {name} holds no {'int8 numbers' if rounded else 'floats'}")
    for scale in scales:
        name = scale.removesuffix(SCALE)
        found[name] = unpack_int8(found[name], found.pop(scale))
    return found


def kept_fingerprint(directory: str | Path) -> str | None:
    """The fingerprint that is stored beside rounded weights, None where there is none."""
    with open_tensors(Path(directory) / WEIGHTS) as file:
        facts: dict[str, str] | None = file.metadata()  # type: ignore[no-untyped-call]
    return (facts or {}).get(FINGERPRINT)
