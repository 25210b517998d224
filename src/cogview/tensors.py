"""Safetensors files, whose headers are compared with what is wanted before a number is read.

Weights may be stored small: the rows of each matrix as int8 with one scale a row, half of float16. A role
that ships beside others (captions, super-resolution) may be stored this way, and an image tokenizer's
convolutions; in memory they are what they always are. With 256 columns a row's largest number is about three
times its standard deviation, so that rounding to 1/127 of it is an error of 0.7 % of a weight's usual size.
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
    """A safetensors file, open; CogViewError where it is missing, damaged or something else."""
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
    """Every tensor of a safetensors file; CogViewError as :func:`open_tensors`."""
    with open_tensors(path) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
        except (SafetensorError, RuntimeError, ValueError, AttributeError) as error:
            raise CogViewError(f"{path}: damaged, or not a safetensors file ({_line(error)})") from error


def shapes(file: safe_open) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in an open file."""
    names: list[str] = file.keys()  # type: ignore[no-untyped-call]
    return {name: tuple(file.get_slice(name).get_shape()) for name in names}  # type: ignore[no-untyped-call]


def misfit(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor]) -> str | None:
    """How the tensors of a file differ from those that are wanted, None where they do not."""
    for name in sorted({*found, *wanted}):
        if name not in found:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name:.200} does not belong there"
        if found[name] != tuple(wanted[name].shape):
            return f"{name} is {found[name]}, not {tuple(wanted[name].shape)}"
    return None


def build_fitting(make: Callable[[], M], path: str | Path, what: str) -> M:
    """The module that ``make`` gives, with the weights in a file.

    It is made on no device first and compared with the file: a configuration that asks for more than there
    is costs no memory. CogViewError where they do not fit; what: the network, for the message.
    """
    with open_tensors(path) as file:
        with torch.device("meta"):
            wanted = make().state_dict()
        wrong = misfit(shapes(file), wanted)
    if wrong:
        raise CogViewError(f"{path}: damaged or foreign {what}: {wrong}")
    model, state = make(), load_tensors(path)
    model.load_state_dict(state)
    return model


def exactly(device: torch.device) -> torch.autocast:
    """Where a kernel of our own computes in the dtype it has chosen, whatever autocast is on around it."""
    return torch.autocast(device.type, enabled=False)


SCALE = ".scale"
LEVELS = 127


def pack_int8(state: Mapping[str, Tensor], dims: Collection[int] = (2,)) -> dict[str, Tensor]:
    """Weights with a number of dimensions in ``dims`` as int8 beside ``NAME.scale``, float32 (rows,).

    All others become float16.

    A row is all that one output is made of: ``x[i]`` of a matrix (rows, columns) or of a convolution (rows,
    channels, height, width).
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
    """The float32 weights (rows, ...) of int8 rows and their scales (rows,)."""
    return rows.to(torch.float32) * scale.to(torch.float32).view(-1, *[1] * (rows.ndim - 1))
