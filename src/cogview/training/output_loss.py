"""Output projection and cross-entropy in one function, for training on a CPU.

As separate operations the logits are stored in the matrix product's dtype and again in float32, and so are
their gradients. Here the logits of some rows at a time are turned into their gradient while they are in the
cache, and only the gradient is stored: one tensor of (n, rows) in the product's dtype. The loss of each token
is computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cogview.tensors import no_autocast

LOGITS = 1 << 21  # at a time per thread: eight megabytes of float32
SMALLEST = torch.finfo(torch.float32).tiny


def is_supported(states: Tensor, matrix: Tensor) -> bool:
    """Whether :func:`cross_entropy` may be used: for training on a CPU, in bfloat16 or float32.

    In fp16 the gradient must be scaled before it is rounded.
    """
    trained = torch.is_grad_enabled() and (states.requires_grad or matrix.requires_grad)
    dtypes = (torch.float32, torch.bfloat16)
    return states.device.type == "cpu" and trained and states.dtype in dtypes and _dtype(states) in dtypes


def cross_entropy(states: Tensor, matrix: Tensor, targets: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of factors * losses, and the losses (n,) float32 without gradient.

    states: (n, h). matrix: (rows, h). targets: (n,) int64, below ``rows``. factors: (n,) float32, without
    a gradient. Products are computed in autocast's dtype, or in that of ``states``.
    """
    dtype = _dtype(states)
    with no_autocast(states.device):
        return cast(Callable[..., tuple[Tensor, Tensor]], OutputLoss.apply)(
            states, matrix, targets, factors, dtype
        )


def _dtype(states: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype


class OutputLoss(torch.autograd.Function):
    """Computes the gradient of the logits, factor * (softmax - target), in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, matrix: Tensor, targets: Tensor, factors: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        hidden, table = states.to(dtype), matrix.to(dtype)
        d_logits = hidden.new_empty(len(hidden), len(table))
        losses = hidden.new_empty(len(hidden), dtype=torch.float32)
        size = max(1, LOGITS * torch.get_num_threads() // len(table))
        for first in range(0, len(hidden), size):
            rows = slice(first, first + size)
            p = torch.softmax(hidden[rows] @ table.T, -1, dtype=torch.float32)
            target = targets[rows, None]
            losses[rows] = p.gather(1, target).clamp(min=SMALLEST).log().neg().squeeze(1)
            p.scatter_add_(1, target, p.new_full((), -1.0).expand_as(target))
            d_logits[rows] = p.mul_(factors[rows, None])
        ctx.save_for_backward(hidden, table, d_logits)
        ctx.dtypes = states.dtype, matrix.dtype
        ctx.mark_non_differentiable(losses)
        ctx.set_materialize_grads(False)
        return factors @ losses, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, unused: None) -> tuple[Tensor | None, ...]:
        hidden, table, d_logits = ctx.saved_tensors
        if grad is None:
            return None, None, None, None, None
        with no_autocast(hidden.device):
            d_states = (d_logits @ table).to(ctx.dtypes[0]).mul_(grad) if ctx.needs_input_grad[0] else None
            d_matrix = (d_logits.T @ hidden).to(ctx.dtypes[1]).mul_(grad) if ctx.needs_input_grad[1] else None
        return d_states, d_matrix, None, None, None
