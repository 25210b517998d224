"""A transformer on disk: ``config.json`` and ``model.safetensors``, checked before anything is allocated."""

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

HALVES: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
CONFIG, WEIGHTS = "config.json", "model.safetensors"
SHARED = "shared"  # in a file's metadata: the neighbouring model that has the tensors it lacks
DTYPES = ("F16", "BF16", "F32", "F64")
NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


def layers_dtype(precision: Precision) -> torch.dtype:
    """The dtype of the layers' matrices; embeddings, LayerNorms and sums of layers stay float32."""
    return HALVES.get(precision, torch.float32)


Blocks = Iterable[tuple[str, Iterable[Tensor]]]


def save(
    directory: str | Path, config: TransformerConfig, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Write both files beside their names, flush them, then rename.

    ``dtype`` torch.int8 stores matrices as scaled rows (:mod:`cogview.tensors`).
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
    """Like :func:`save`, for weights that come a few rows at a time; no more than those are held.

    Args:
        shapes: of every tensor, in the order of ``tensors``.
        tensors: name and blocks, which stand one after the other along the first dimension.
        progress: called with the bytes of every block that was written.
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
    return validate(TransformerConfig, _as_it_was(load_json(path)), str(path))


def _as_it_was(data: Any) -> Any:
    """A stored configuration without what did nothing, which earlier versions let pass."""
    if not isinstance(data, dict):
        return data
    inert: dict[str, float | None] = (
        {"attention_relax": None} if data.get("numerics", "fused") != "written" else {}
    )
    inert |= {"branch_gain": 1.0} if data.get("norm", "sandwich") != "sandwich" else {}
    return {**data, **{name: value for name, value in inert.items() if name in data}}


def read_weights(
    directory: str | Path,
    expected: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    layers: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """``model.safetensors`` as ``dtype``; its names and shapes must be those of ``expected``.

    layers: the dtype of what the layers multiply with, if another.
    The header is compared first, so that a foreign or hostile file costs no memory.
    """

    def kept(name: str) -> torch.dtype:
        return layers if layers and name.startswith("blocks.") and "norm" not in name else dtype

    with open_weights(directory, expected, packed=True) as file:
        base = _shared(directory, file)
        own = set(file.keys())  # type: ignore[no-untyped-call]
        found = {name: _tensor(file, name).to(device, kept(name)) for name in expected if name in own}
    if base is None:
        return found
    with _open(base) as file:
        rest = {name: _tensor(file, name).to(device, kept(name)) for name in expected if name not in own}
    return {name: (found if name in own else rest)[name] for name in expected}


def without_shared(model: str | Path, base: str | Path, out: str | Path, place: str) -> None:
    """Write a model again without the tensors that are stored in the very same way in ``base``.

    place: of ``base`` as seen from where the model will be used, such as ``../base``.
    """
    with _open(base) as there, _open(model) as file:
        known, kept = set(there.keys()), {}  # type: ignore[no-untyped-call]
        for name in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
            numbers: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
            other = there.get_tensor(name) if name in known else None  # type: ignore[no-untyped-call]
            same = other is not None and other.dtype == numbers.dtype and torch.equal(other, numbers)
            if not same:
                kept[name] = numbers
    matrices = {name for name in kept if name + SCALE in known}  # rows and scales stay together
    scales = {name.removesuffix(SCALE) for name in kept if name.endswith(SCALE)}
    with _open(model) as file:
        for name in matrices | scales:
            for half in (name, name + SCALE):
                kept[half] = file.get_tensor(half)  # type: ignore[no-untyped-call]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(kept, out / WEIGHTS, {SHARED: place})
    (out / CONFIG).write_text((Path(model) / CONFIG).read_text(encoding="utf-8"), encoding="utf-8")


def shares(directory: str | Path) -> bool:
    """Whether a model's file leaves out tensors that another model has."""
    with _open(directory) as file:
        return _shared(directory, file) is not None


def _shared(directory: str | Path, file: safe_open) -> Path | None:
    """The directory of the model that has the tensors this file lacks; CogViewError for a strange place."""
    place: str | None = (file.metadata() or {}).get(SHARED)  # type: ignore[no-untyped-call]
    if place is None:
        return None
    if not re.fullmatch(r"\.\./[A-Za-z0-9][A-Za-z0-9._-]*", place):
        raise CogViewError(f"{Path(directory) / WEIGHTS}: shares its tensors with {place!r}, no neighbour")
    return Path(directory) / place


def _tensor(file: safe_open, name: str) -> Tensor:
    """A tensor of an open file, as float where it is stored as scaled rows."""
    stored: Tensor = file.get_tensor(name)  # type: ignore[no-untyped-call]
    if stored.dtype != torch.int8:
        return stored
    return unpack_int8(stored, file.get_tensor(name + SCALE))  # type: ignore[no-untyped-call]


@contextmanager
def open_weights(
    directory: str | Path, expected: Mapping[str, Tensor], packed: bool = False
) -> Iterator[safe_open]:
    """``model.safetensors``, open and compared with ``expected``; what is not asked for is not read.

    packed: whether matrices may be stored as int8 rows with scales, and tensors in a neighbour's file, which
    the caller then has to see to.
    """
    path = Path(directory) / WEIGHTS
    with _open(directory) as file:
        base = _shared(directory, file)
        if base is None:
            _check(path, file, expected, packed)
        elif not packed:
            raise CogViewError(
                f"{path}: lacks what it shares with {base}; this needs a whole model, as of a run or a "
                "family assembled without --share"
            )
        else:
            own = set(file.keys())  # type: ignore[no-untyped-call]
            _check(path, file, {name: x for name, x in expected.items() if name in own}, packed)
            with _open(base) as there:
                rest = {name: x for name, x in expected.items() if name not in own}
                _check(base / WEIGHTS, there, rest, packed, whole=False)
        yield file


@contextmanager
def _open(directory: str | Path) -> Iterator[safe_open]:
    """``model.safetensors``, open."""
    path = Path(directory) / WEIGHTS
    if not path.exists():
        raise CogViewError(f"{directory}: no {WEIGHTS} there; the model is not complete")
    with open_tensors(path) as file:
        yield file


def _check(
    path: Path, file: safe_open, expected: Mapping[str, Tensor], packed: bool, whole: bool = True
) -> None:
    """Compare names, shapes and dtypes of an open file with what its config.json asks for.

    whole: nothing else may be in the file.
    """
    names = set(file.keys())  # type: ignore[no-untyped-call]
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in wanted.keys() & names:
        if _dtype(file, name) == "I8" and len(wanted[name]) == 2:
            if not packed:
                raise CogViewError(
                    f"{path}: stored small, as int8 rows; this needs the float weights, as of a run or a "
                    "family assembled without --small"
                )
            wanted = wanted | {name + SCALE: wanted[name][:1]}
    for name in sorted(names ^ set(wanted) if whole else set(wanted) - names):
        what = "is missing" if name in wanted else "does not belong there"
        raise CogViewError(f"{path}: the tensor {name} {what}; the file is not this config.json's")
    for name, shape in wanted.items():
        found = tuple(file.get_slice(name).get_shape())  # type: ignore[no-untyped-call]
        if found != shape:
            raise CogViewError(f"{path}: {name} is {found}, config.json says {shape}")
        if _dtype(file, name) not in DTYPES and name + SCALE not in wanted:
            raise CogViewError(f"{path}: {name} has the type {_dtype(file, name)}, not a float's")


def _dtype(file: safe_open, name: str) -> str:
    return str(file.get_slice(name).get_dtype())  # type: ignore[no-untyped-call]
