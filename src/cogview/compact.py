"""Weights stored small: the rows of each matrix as int8 with one scale a row, half of float16.

A role that ships beside others (captions, super-resolution) may be stored this way, and an image tokenizer's
convolutions; in memory they are what they always are. With 256 columns a row's largest number is about three
times its standard deviation, so that rounding to 1/127 of it is an error of 0.7 % of a weight's usual size.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

SCALE = ".scale"
LEVELS = 127


def pack(state: Mapping[str, Tensor], dims: Collection[int] = (2,)) -> dict[str, Tensor]:
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


def unpack(rows: Tensor, scale: Tensor) -> Tensor:
    """The float32 weights (rows, ...) of int8 rows and their scales (rows,)."""
    return rows.to(torch.float32) * scale.to(torch.float32).view(-1, *[1] * (rows.ndim - 1))
