"""Safetensors files, whose headers are compared with the expected shapes before any weight is read.

Weights may be stored as int8: the rows of each matrix with one scale per row, half the size of float16. A
role that is shipped beside others (captions, super-resolution) may be stored this way, and an image
tokenizer's convolutions; in memory they are floats as always. With 256 columns a row's largest number is
about three times its standard deviation, so rounding to 1/127 of it is an error of 0.7 % of a typical weight.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.files import open_regular

MAX_HEADER = 16 << 20  # bytes; a model of a hundred layers has 200 kB
M = TypeVar("M", bound=nn.Module)


@contextmanager
def open_tensors(path: str | Path) -> Iterator[safe_open]:
    """Open a safetensors file; raises CogViewError if it is missing, damaged or of another format."""
    with open_regular(path) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > MAX_HEADER:
        raise CogViewError(f"{path}: damaged, or not a safetensors file (a header of {header:,} bytes)")
    try:
        opened = safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CogViewError(f"{path}: damaged, or not a safetensors file ({_line(error)})") from error
    with opened as tensors:
        yield tensors


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Load all tensors of a safetensors file; raises CogViewError as :func:`open_tensors` does."""
    with open_tensors(path) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
        except (SafetensorError, RuntimeError, ValueError, AttributeError) as error:
            raise CogViewError(f"{path}: damaged, or not a safetensors file ({_line(error)})") from error


def shapes(file: safe_open) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in an open file."""
    names: list[str] = file.keys()  # type: ignore[no-untyped-call]
    return {name: tuple(file.get_slice(name).get_shape()) for name in names}  # type: ignore[no-untyped-call]


def shape_mismatch(stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, Tensor]) -> str | None:
    """How the tensors stored in a file differ from the expected ones, or None if they do not."""
    for name in sorted({*stored, *expected}):
        if name not in stored:
            return f"{name} is missing"
        if name not in expected:
            return f"{name:.200} does not belong there"
        if stored[name] != tuple(expected[name].shape):
            return f"{name} is {stored[name]}, not {tuple(expected[name].shape)}"
    return None


def load_module(make: Callable[[], M], path: str | Path, what: str) -> M:
    """Build a module with ``make`` and load the weights in a file.

    It is first built on the meta device and compared with the file, so that a configuration larger than the
    file costs no memory. Raises CogViewError if they do not fit. what: the network's name, for the message.
    """
    with open_tensors(path) as file:
        with torch.device("meta"):
            expected = make().state_dict()
        mismatch = shape_mismatch(shapes(file), expected)
    if mismatch:
        raise CogViewError(f"{path}: damaged or foreign {what}: {mismatch}")
    model, state = make(), load_tensors(path)
    model.load_state_dict(state)
    return model


def no_autocast(device: torch.device) -> torch.autocast:
    """A context without autocast, in which our kernels compute in the dtype they have chosen."""
    return torch.autocast(device.type, enabled=False)


SCALE = ".scale"
LEVELS = 127


def pack_int8(state: Mapping[str, Tensor], dims: Collection[int] = (2,)) -> dict[str, Tensor]:
    """Quantize weights whose number of dimensions is in ``dims`` to int8 and ``NAME.scale``, float32 (rows,).

    All others become float16. A row holds the weights of one output: ``x[i]`` of a matrix (rows, columns) or
    of a convolution (rows, channels, height, width).
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        numbers = tensor.detach().to("cpu", torch.float32)
        if numbers.ndim in dims:
            rows = numbers.flatten(1)
            scale = rows.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / LEVELS
            packed[name] = (rows / scale[:, None]).round().to(torch.int8).view(numbers.shape)
            packed[name + SCALE] = scale
        else:
            packed[name] = numbers.to(torch.float16).contiguous()
    return packed


def unpack_int8(rows: Tensor, scale: Tensor) -> Tensor:
    """Dequantize int8 rows (rows, ...) with their scales (rows,) to float32."""
    return rows.to(torch.float32) * scale.to(torch.float32).view(-1, *[1] * (rows.ndim - 1))
