"""Tanh-GELU that computes its derivative in the forward pass, for training on a CPU.

PyTorch's kernels compute a hyperbolic tangent in both the forward and the backward pass. A sigmoid, from
which both the value and the derivative follow, is cheaper, and with the derivative saved instead of the input
the backward pass is one product (``benchmarks/peer_training.py``). The memory is the same: one tensor of the
input's size and dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

SCALE = 2 * 0.7978845608028654  # 2 sqrt(2 / pi): tanh(u) = 2 sigmoid(2 u) - 1
CUBIC = 0.044715
FEWEST = 1 << 16  # elements; for fewer, PyTorch's single call costs less than a dozen calls
CHUNK = 1 << 18  # elements at a time per thread: four float32 buffers, large enough to amortize the calls


def gelu(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), elementwise, in the dtype of x."""
    trained = torch.is_grad_enabled() and x.requires_grad and x.dtype != torch.float64
    if x.device.type != "cpu" or x.numel() < FEWEST or not trained:
        return F.gelu(x, approximate="tanh")
    if torch.compiler.is_compiling():  # a sigmoid is cheaper than a hyperbolic tangent here, too
        a = x.float()
        return (a * torch.sigmoid(a * (SCALE + SCALE * CUBIC * a * a))).to(x.dtype)
    return cast(Callable[[Tensor], Tensor], GeluWithSlope.apply)(x)


class GeluWithSlope(torch.autograd.Function):
    """x s with s = sigmoid(u), u = z + CUBIC / SCALE^2 z^3, z = SCALE x.

    Its derivative is s + s (1 - s) (3 u - 2 z).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        out, slope = torch.empty_like(x), torch.empty_like(x)
        size = min(CHUNK * torch.get_num_threads(), x.numel())
        buffers = x.new_empty(4, size, dtype=torch.float32)
        parts = [torch.split(t.view(-1), size) for t in (x, out, slope)]
        for chunk, value, derivative in zip(*parts, strict=True):
            a, z, u, s = buffers[:, : len(chunk)]
            torch.mul(a.copy_(chunk), SCALE, out=z)
            torch.mul(z, z, out=s)
            torch.addcmul(z, z, s, value=CUBIC / SCALE**2, out=u)
            torch.sigmoid(u, out=s)
            value.copy_(a.mul_(s))
            torch.lerp(z, u, 3.0, out=z)
            torch.ops.aten.sigmoid_backward.grad_input(z, s, grad_input=u)
            derivative.copy_(u.add_(s))
        ctx.save_for_backward(slope)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return cast(Tensor, grad * slope)
