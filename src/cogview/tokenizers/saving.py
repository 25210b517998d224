"""Saved image tokenizers: ``config.json`` and ``model.safetensors``, compared before weights are read."""

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
CONVOLUTIONS = (4,)  # numbers of dimensions of their weights


def save_weights(
    directory: str | Path,
    config: Config,
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    fingerprint: str | None = None,
) -> None:
    """Write both files; the weights, in ``dtype``, are written atomically.

    torch.int8 quantizes the convolutions (:mod:`cogview.tensors`). ``fingerprint``, of the tokenizer before
    it was rounded to int8, is stored in the file.
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
    """Load the weights in a directory as floats; names and shapes must be those of ``expected``.

    Raises:
        CogViewError: missing, damaged, or another model's; raised before any weight is read.
    """
    path = Path(directory) / WEIGHTS
    with open_tensors(path) as file:
        stored = shapes(file)
    scales = {
        name + SCALE: x.flatten(1)[:, 0]
        for name, x in expected.items()
        if x.ndim in CONVOLUTIONS and name + SCALE in stored
    }
    if mismatch := shape_mismatch(stored, {**expected, **scales}):
        raise CogViewError(f"{path} does not fit its {CONFIG}: {mismatch}")
    weights = load_tensors(path)
    for name, x in weights.items():
        rounded = name + SCALE in scales
        if not (x.dtype == torch.int8 if rounded else x.is_floating_point()):
            raise CogViewError(f"{path}: {name} does not hold {'int8 numbers' if rounded else 'floats'}")
    for scale in scales:
        name = scale.removesuffix(SCALE)
        weights[name] = unpack_int8(weights[name], weights.pop(scale))
    return weights


def stored_fingerprint(directory: str | Path) -> str | None:
    """The fingerprint stored with weights rounded to int8, or None."""
    with open_tensors(Path(directory) / WEIGHTS) as file:
        metadata: dict[str, str] | None = file.metadata()  # type: ignore[no-untyped-call]
    return (metadata or {}).get(FINGERPRINT)
