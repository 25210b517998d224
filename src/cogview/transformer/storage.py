"""A transformer on disk: ``config.json`` and ``model.safetensors``, checked before anything is allocated."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogview.config import read_json
from cogview.errors import CogViewError
from cogview.transformer import compact
from cogview.transformer.config import TransformerConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
DTYPES = ("F16", "BF16", "F32", "F64")
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}

Blocks = Iterable[tuple[str, Iterable[Tensor]]]


def save(
    directory: str | Path, config: TransformerConfig, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write both files beside their names, flush them, then rename.

    ``dtype`` torch.int8 stores matrices as scaled rows (:mod:`cogview.transformer.compact`).
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if dtype == torch.int8:
            tensors = compact.pack(state)
        else:
            tensors = {name: x.detach().to("cpu", dtype).contiguous() for name, x in state.items()}
        weights, text = directory / f"{WEIGHTS}.part", directory / f"{CONFIG}.part"
        save_file(tensors, weights)
        text.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for part in (weights, text):
            _flush(part)
            part.replace(part.with_suffix(""))
    except OSError as error:
        raise CogViewError(f"{directory}: cannot be written ({error.strerror or error})") from error


def write(
    directory: str | Path,
    config: TransformerConfig,
    shapes: Mapping[str, Sequence[int]],
    tensors: Blocks,
    dtype: torch.dtype,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Like :func:`save`, for weights that come a few rows at a time; no more than those are held.

    Args:
        shapes: of every tensor, in the order of ``tensors``.
        tensors: name and blocks, which stand one after the other along the first dimension.
        progress: is told the bytes of every block that was written.
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        weights, text = directory / f"{WEIGHTS}.part", directory / f"{CONFIG}.part"
        with weights.open("wb") as file:
            file.write(_header(shapes, dtype))
            for (name, blocks), expected in zip(tensors, shapes, strict=True):
                assert name == expected
                _write_blocks(file, blocks, dtype, progress)
        text.write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
        for part in (weights, text):
            _flush(part)
            part.replace(part.with_suffix(""))
    except OSError as error:
        raise CogViewError(f"{directory}: cannot be written ({error.strerror or error})") from error


def _header(shapes: Mapping[str, Sequence[int]], dtype: torch.dtype) -> bytes:
    """What stands before the numbers of a safetensors file: its length (8 bytes), then names and places."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        entries[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_blocks(
    file: IO[bytes], blocks: Iterable[Tensor], dtype: torch.dtype, progress: Callable[[int], None] | None
) -> None:
    for block in blocks:
        numbers = block.detach().to("cpu", dtype).contiguous().flatten().view(torch.uint8).numpy()
        file.write(numbers.data)
        if progress is not None:
            progress(numbers.nbytes)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def read_config(directory: str | Path) -> TransformerConfig:
    """``config.json`` of a model directory; CogViewError if it is missing or another model's."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CogViewError(f"{directory}: no {CONFIG} there; is it a transformer's directory?")
    return read_json(TransformerConfig, path)


def read_weights(
    directory: str | Path, expected: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    """``model.safetensors`` as ``dtype``; its names and shapes must be those of ``expected``.

    The header is compared first, so that a foreign or hostile file costs no memory.
    """
    with open_weights(directory, expected, packed=True) as file:
        return {name: _tensor(file, name).to(device, dtype) for name in expected}


def _tensor(file: safe_open, name: str) -> Tensor:
    """A tensor of an open file, as float where it is stored as scaled rows."""
    stored: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
    if stored.dtype != torch.int8:
        return stored
    return compact.unpack(stored, file.get_tensor(name + compact.SCALE))  # type: ignore[no-untyped-call]


@contextmanager
def open_weights(
    directory: str | Path, expected: Mapping[str, Tensor], packed: bool = False
) -> Iterator[safe_open]:
    """``model.safetensors``, open and compared with ``expected``; what is not asked for is not read.

    packed: whether matrices may be stored as int8 rows with scales, which the caller then has to apply.
    """
    path = Path(directory) / WEIGHTS
    if not path.is_file():
        raise CogViewError(f"{directory}: no {WEIGHTS} there; the model is not complete")
    try:
        opened = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise CogViewError(f"{path}: damaged, or not a safetensors file ({reason})") from error
    with opened as file:
        _check(path, file, expected, packed)
        yield file


def _check(path: Path, file: safe_open, expected: Mapping[str, Tensor], packed: bool) -> None:
    """Compare names, shapes and dtypes of an open file with what its config.json asks for."""
    names = set(file.keys())  # type: ignore[no-untyped-call]
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in wanted.keys() & names:
        if _dtype(file, name) == "I8" and len(wanted[name]) == 2:
            if not packed:
                raise CogViewError(f"{path}: stored small, as int8 rows; this needs the float weights")
            wanted = wanted | {name + compact.SCALE: wanted[name][:1]}
    for name in sorted(names ^ set(wanted)):
        what = "is missing" if name in wanted else "does not belong there"
        raise CogViewError(f"{path}: the tensor {name} {what}; the file is not this config.json's")
    for name, shape in wanted.items():
        found = tuple(file.get_slice(name).get_shape())  # type: ignore[no-untyped-call]
        if found != shape:
            raise CogViewError(f"{path}: {name} is {found}, config.json says {shape}")
        if _dtype(file, name) not in DTYPES and name + compact.SCALE not in wanted:
            raise CogViewError(f"{path}: {name} has the type {_dtype(file, name)}, not a float's")


def _dtype(file: safe_open, name: str) -> str:
    return str(file.get_slice(name).get_dtype())  # type: ignore[no-untyped-call]
