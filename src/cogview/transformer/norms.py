"""LayerNorm, PB-relaxed or plain (CogView, section 2.4).

LayerNorm does not change when its input is divided by a constant, so the largest value is divided out before
the variance is taken: in half precision that of values of 1e4 overflows, that of values of 1 does not.
What is left of the constant is its effect on epsilon: ``LN(x / m, eps) = LN(x, eps * m * m)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.transformer.config import NormRelax

RELEASED_RANGE = 8.0  # the released code divides by max / 8: values end in [-8, 8]


def relax(x: Tensor, mode: NormRelax) -> Tensor:
    """``x`` (..., h) divided by its largest absolute value, which carries no gradient.

    ``token``: each (h,) by its own, so that tokens stay independent; zeros stay zeros. ``tensor``: all by
    max / 8 of the whole tensor, as released; an all-zero tensor becomes NaN there and here.
    """
    if mode == "none":
        return x
    largest = x.detach().abs()
    if mode == "tensor":
        return x / (largest.max() / RELEASED_RANGE)
    return x / largest.amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension; statistics in float32 whatever the dtype of the input."""

    def __init__(self, hidden: int, epsilon: float = 1e-5, relax: NormRelax = "none") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.epsilon, self.relax = epsilon, relax

    def forward(self, x: Tensor) -> Tensor:
        """(..., h) -> (..., h), same dtype."""
        return F.layer_norm(relax(x, self.relax), self.weight.shape, self.weight, self.bias, self.epsilon)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, epsilon={self.epsilon}, relax={self.relax!r}"
