"""Saved transformers: ``config.json`` and ``model.safetensors``, checked before any memory is allocated."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cogview.config import load_json, validate
from cogview.errors import CogViewError
from cogview.tensors import SCALE, open_tensors, pack_int8, unpack_int8
from cogview.transformer.config import TransformerConfig
from cogview.types import Precision

HALF_DTYPES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHARED = "shared"  # key in a file's metadata: the sibling model that holds the tensors it lacks
DTYPES = ("F16", "BF16", "F32", "F64")
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


def layers_dtype(precision: Precision) -> torch.dtype:
    """The dtype of the layers' matrices; embeddings, LayerNorms and the residual stream stay float32."""
    return HALF_DTYPES.get(precision, torch.float32)


Blocks = Iterable[tuple[str, Iterable[Tensor]]]


def save(
    directory: str | Path, config: TransformerConfig, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write both files to temporary names, flush them to disk, then rename them.

    ``dtype`` torch.int8 stores matrices as int8 rows with scales (:mod:`cogview.tensors`).
    """
    directory = Path(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if dtype == torch.int8:
            tensors = pack_int8(state)
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
    """Like :func:`save`, for weights streamed in blocks of rows, so that only one block is in memory.

    Args:
        shapes: shapes of all tensors, in the order of ``tensors``.
        tensors: name and blocks of each tensor, concatenated along the first dimension.
        progress: called with the number of bytes of every block written.
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
    """The header of a safetensors file: its length (8 bytes), then names, shapes and offsets as JSON."""
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
    """Read ``config.json`` of a model directory; raises CogViewError if it is missing or another model's."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise CogViewError(f"{directory}: no {CONFIG} there; is it a transformer's directory?")
    return validate(TransformerConfig, _reset_unused(load_json(path)), str(path))


def _reset_unused(data: Any) -> Any:
    """A stored configuration with unused options, which earlier versions accepted, set to their defaults."""
    if not isinstance(data, dict):
        return data
    unused: dict[str, float | None] = (
        {"attention_relax": None} if data.get("numerics", "fused") != "written" else {}
    )
    unused |= {"branch_gain": 1.0} if data.get("norm", "sandwich") != "sandwich" else {}
    return {**data, **{name: value for name, value in unused.items() if name in data}}


def read_weights(
    directory: str | Path,
    expected: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    layers: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Load ``model.safetensors`` as ``dtype``; its names and shapes must be those of ``expected``.

    layers: dtype of the layers' matrices and biases, if different.
    The header is compared first, so that a foreign or hostile file costs no memory.
    """

    def dtype_of(name: str) -> torch.dtype:
        return layers if layers and name.startswith("blocks.") and "norm" not in name else dtype

    with open_weights(directory, expected, packed=True) as file:
        base = _shared(directory, file)
        names = set(file.keys())  # type: ignore[no-untyped-call]
        stored = {name: _tensor(file, name).to(device, dtype_of(name)) for name in expected if name in names}
    if base is None:
        return stored
    with _open(base) as file:
        shared = {
            name: _tensor(file, name).to(device, dtype_of(name)) for name in expected if name not in names
        }
    return {name: (stored if name in names else shared)[name] for name in expected}


def save_without_shared(model: str | Path, base: str | Path, out: str | Path, place: str) -> None:
    """Copy a model to ``out`` without the tensors that ``base`` stores with the same values and dtype.

    place: path of ``base`` relative to where the model will be used, such as ``../base``.
    """
    with _open(base) as base_file, _open(model) as file:
        known, kept = set(base_file.keys()), {}  # type: ignore[no-untyped-call]
        for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
            tensor: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
            other = base_file.get_tensor(name) if name in known else None  # type: ignore[no-untyped-call]
            same = other is not None and other.dtype == tensor.dtype and torch.equal(other, tensor)
            if not same:
                kept[name] = tensor
    matrices = {name for name in kept if name + SCALE in known}  # rows and scales stay together
    scales = {name.removesuffix(SCALE) for name in kept if name.endswith(SCALE)}
    with _open(model) as file:
        for name in matrices | scales:
            for key in (name, name + SCALE):
                kept[key] = file.get_tensor(key)  # type: ignore[no-untyped-call]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(kept, out / WEIGHTS, {SHARED: place})
    (out / CONFIG).write_text((Path(model) / CONFIG).read_text(encoding="utf-8"), encoding="utf-8")


def shares(directory: str | Path) -> bool:
    """Whether a model's file leaves out tensors that a sibling model holds."""
    with _open(directory) as file:
        return _shared(directory, file) is not None


def _shared(directory: str | Path, file: safe_open) -> Path | None:
    """The directory of the model with the tensors this file lacks; raises CogViewError if not a sibling."""
    place: str | None = (file.metadata() or {}).get(SHARED)  # type: ignore[no-untyped-call]
    if place is None:
        return None
    if not re.fullmatch(r"\.\./[A-Za-z0-9][A-Za-z0-9._-]*", place):
        raise CogViewError(
            f"{Path(directory) / WEIGHTS}: shares its tensors with {place!r}, which is no directory beside it"
        )
    return Path(directory) / place


def _tensor(file: safe_open, name: str) -> Tensor:
    """A tensor of an open file, dequantized if it is stored as int8 rows."""
    stored: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
    if stored.dtype != torch.int8:
        return stored
    return unpack_int8(stored, file.get_tensor(name + SCALE))  # type: ignore[no-untyped-call]


@contextmanager
def open_weights(
    directory: str | Path, expected: Mapping[str, Tensor], packed: bool = False
) -> Iterator[safe_open]:
    """Open ``model.safetensors`` and compare its header with ``expected``, without reading any weights.

    packed: whether matrices may be stored as int8 rows with scales, and tensors in a sibling's file, which
    the caller then has to handle.
    """
    path = Path(directory) / WEIGHTS
    with _open(directory) as file:
        base = _shared(directory, file)
        if base is None:
            _check(path, file, expected, packed)
        elif not packed:
            raise CogViewError(
                f"{path}: lacks the tensors it shares with {base}; use a complete model, from a run or a "
                "family assembled without --share"
            )
        else:
            names = set(file.keys())  # type: ignore[no-untyped-call]
            _check(path, file, {name: x for name, x in expected.items() if name in names}, packed)
            with _open(base) as base_file:
                rest = {name: x for name, x in expected.items() if name not in names}
                _check(base / WEIGHTS, base_file, rest, packed, complete=False)
        yield file


@contextmanager
def _open(directory: str | Path) -> Iterator[safe_open]:
    """Open ``model.safetensors``."""
    path = Path(directory) / WEIGHTS
    if not path.exists():
        raise CogViewError(f"{directory}: no {WEIGHTS} there; the model is not complete")
    with open_tensors(path) as file:
        yield file


def _check(
    path: Path, file: safe_open, expected: Mapping[str, Tensor], packed: bool, complete: bool = True
) -> None:
    """Compare names, shapes and dtypes of an open file with those of its config.json.

    complete: whether the file must contain nothing else.
    """
    names = set(file.keys())  # type: ignore[no-untyped-call]
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in shapes.keys() & names:
        if _dtype(file, name) == "I8" and len(shapes[name]) == 2:
            if not packed:
                raise CogViewError(
                    f"{path}: stored as int8 rows; use the float weights, from a run or a family assembled "
                    "without --small"
                )
            shapes = shapes | {name + SCALE: shapes[name][:1]}
    for name in sorted(names ^ set(shapes) if complete else set(shapes) - names):
        what = "is missing" if name in shapes else "does not belong there"
        raise CogViewError(f"{path}: the tensor {name} {what}; the file does not fit its config.json")
    for name, shape in shapes.items():
        actual = tuple(file.get_slice(name).get_shape())  # type: ignore[no-untyped-call]
        if actual != shape:
            raise CogViewError(f"{path}: {name} is {actual}, config.json says {shape}")
        if _dtype(file, name) not in DTYPES and name + SCALE not in shapes:
            raise CogViewError(f"{path}: {name} has the type {_dtype(file, name)}, which is not a float type")


def _dtype(file: safe_open, name: str) -> str:
    return str(file.get_slice(name).get_dtype())  # type: ignore[no-untyped-call]
