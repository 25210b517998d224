"""Linear layers for decoding: functions (rows, inputs) -> (rows, outputs), packed once for the processor.

A decode step reads every weight for a handful of rows, so it is as fast as memory is. Four forms:

- ``plain``      the weights as they are, on any device and in any dtype
- ``prepacked``  oneDNN's own layout, on a CPU: twice as fast as ``plain`` from two rows on, and the result of
                 a row does not depend on how many there are
- ``half``       one of the first two in bfloat16 or float16: inputs are rounded, results stay so
- ``int8``       weights of a byte, one scale an output; inputs rounded to a byte, one scale a *row*, so that
                 rows stay independent (PyTorch's dynamic quantisation has one scale for the whole batch)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cogview.errors import CogViewError
from cogview.transformer.processor import adds_bytes_exactly, multiplies_bf16
from cogview.transformer.storage import HALVES
from cogview.types import Precision

Linear = Callable[[Tensor], Tensor]

ROWS = 16  # packed for so many rows; oneDNN's layout for fewer is slower, even for those
INT8 = 127


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Where a model whose layers are kept so can be called: float32 inputs are rounded for its products."""
    if precision not in HALVES:
        return nullcontext()
    return torch.autocast(device.type, dtype=HALVES[precision])


def plain(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """x @ weight.T + bias, then tanh-GELU if ``gelu``; weight (outputs, inputs), bias (outputs,)."""
    if gelu:
        return lambda x: F.gelu(F.linear(x, weight, bias), approximate="tanh")
    return lambda x: F.linear(x, weight, bias)


def prepacked(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """The same with the weights in oneDNN's layout, which takes as much memory again.

    One row is computed twice: for one alone oneDNN adds up in another order.
    """
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS)
    product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
    after: tuple[Any, ...] = ("gelu", [], "tanh") if gelu else ("none", [], "")

    def linear(x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return product(x.expand(2, -1), packed, bias, *after)[:1]
        return product(x, packed, bias, *after)

    return linear


def half(
    weight: Tensor, bias: Tensor | None = None, gelu: bool = False, *, dtype: torch.dtype, packed: bool
) -> Linear:
    """The same with weights, inputs and result in ``dtype``."""
    form = prepacked if packed else plain
    linear = form(weight.to(dtype), None if bias is None else bias.to(dtype), gelu)
    return lambda x: linear(x.to(dtype))


def int8(weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Linear:
    """The same in integers: exact sums of products of bytes, scaled back by row and by output."""
    scale = weight.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / INT8  # (outputs,)
    quantized = (weight / scale[:, None]).round().to(torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(quantized, [ROWS, weight.shape[1]])
    zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
    to_float: tuple[Any, ...] = (torch.float32, "none", [], "")
    offset = torch.zeros(weight.shape[0]) if bias is None else bias.float()
    levels = _levels()
    middle, half = levels + 1, torch.tensor(levels + 1.5)
    product = torch.ops.onednn.qlinear_pointwise.default

    def linear(x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp_(min=1e-30).div_(levels)
        rounded = torch.addcdiv(half, x, step).to(torch.uint8)
        sums = product(rounded, 1.0, middle, packed, scale, zeros, None, 1.0, 0, *to_float)
        y = torch.addcmul(offset, sums, step)
        return F.gelu(y, approximate="tanh") if gelu else y

    return linear


def _levels() -> int:
    """Steps on each side of 0 for inputs; without VNNI pairs of products must fit into 16 bits: 7 bits do."""
    return INT8 if adds_bytes_exactly() else INT8 // 2


def choose(precision: Precision, device: torch.device, dtype: torch.dtype) -> Callable[..., Linear]:
    """The form for a precision, device and the weights' dtype; CogViewError where there is none."""
    cpu = device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if precision == "int8":
        if not cpu:
            raise CogViewError("int8 needs an x86 CPU with oneDNN; use the precision fp32")
        return int8
    if precision in HALVES:
        packed = cpu and precision == "bf16" and multiplies_bf16()
        return partial(half, dtype=HALVES[precision], packed=packed)
    return prepacked if cpu and dtype == torch.float32 else plain
