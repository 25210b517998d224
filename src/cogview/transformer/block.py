"""One layer: attention and feed-forward, each with its LayerNorms (CogView, figure 4a).

=============  ==============================================
``pre``        x + f(norm_in(x))
``post``       norm_out(x + f(x))
``sandwich``   x + norm_out(f(norm_in(x)))
=============  ==============================================

LayerNorm is PB-relaxed or standard (section 2.4). It is invariant to dividing its input by a constant, so the
input is divided by its largest absolute value before the variance is computed: in half precision the variance
of values of 1e4 overflows, that of values of 1 does not. The constant only affects epsilon:
``LN(x / m, eps) = LN(x, eps * m * m)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.transformer.activation import gelu
from cogview.transformer.attention import View, short
from cogview.transformer.attention.pattern import attend_fused, attend_released, attend_written
from cogview.transformer.cache import KVCache
from cogview.transformer.config import NormRelax, TransformerConfig

RELEASED_RANGE = 8.0  # the released code divides by max / 8: values end in [-8, 8]


def relax(x: Tensor, mode: NormRelax) -> Tensor:
    """Divide ``x`` (..., h) by its largest absolute value, which is detached from the graph.

    ``token``: one maximum per token (h,), so that tokens stay independent; zeros stay zeros. ``tensor``:
    max / 8 of the whole tensor, as released; an all-zero tensor becomes NaN, as in the released code.
    """
    if mode == "none":
        return x
    largest = x.detach().abs()
    if mode == "tensor":
        return x / (largest.max() / RELEASED_RANGE)
    return x / largest.amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension, with statistics in float32."""

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


def released_gelu(x: Tensor) -> Tensor:
    """Tanh-GELU in elementary operations; ``F.gelu(x, approximate="tanh")`` differs in the last bit."""
    return 0.5 * x * (1.0 + torch.tanh(0.7978845608028654 * x * (1.0 + 0.044715 * x * x)))


class Output(nn.Linear):
    """The linear layer that ends a branch; ``released`` adds its bias in a separate operation."""

    def __init__(self, inputs: int, outputs: int, released: bool) -> None:
        super().__init__(inputs, outputs)
        self.released = released

    def forward(self, x: Tensor) -> Tensor:
        if self.released:
            return F.linear(x, self.weight) + self.bias
        return F.linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head self-attention with one joint matrix for query, key and value.

    With ``config.decoder_from`` the tokens from that index on have separate matrices.
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.out = Output(config.hidden, config.hidden, config.numerics == "released")
        self.decoder_qkv = self.decoder_out = None
        if config.decoder_from is not None:
            self.decoder_qkv = nn.Linear(config.hidden, 3 * config.hidden)
            self.decoder_out = Output(config.hidden, config.hidden, config.numerics == "released")

    def forward(self, x: Tensor, view: View, cache: KVCache | None = None) -> Tensor:
        """(b, q, h) -> (b, q, h)."""
        qkv = self._project(x, self.qkv, self.decoder_qkv)
        if cache is None and self.config.numerics == "fused" and short.is_faster(qkv, view, self._dropout):
            attended = short.attend(qkv, self.config.heads, view)
        else:
            query, key, value = self._split(qkv)
            if cache is not None:
                key, value = cache.update(self.layer, torch.stack((key, value)))
            attended = self._attend(query, key, value, view).transpose(1, 2).flatten(2)
        return self._project(attended, self.out, self.decoder_out)

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, (b, heads, q, d) each, of the input (b, q, h)."""
        return self._split(self._project(x, self.qkv, self.decoder_qkv))

    def _split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, (b, heads, q, d) each, from (b, q, 3 h)."""
        batch, length, _ = qkv.shape
        qkv = qkv.view(batch, length, 3, self.config.heads, self.config.head_dim)
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        return query, key, value

    @property
    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _project(self, x: Tensor, first: nn.Module, second: nn.Module | None) -> Tensor:
        """Apply ``first`` to x (b, q, h), but ``second`` to the tokens from ``decoder_from`` on."""
        start = self.config.decoder_from
        if second is None or start is None:
            return first(x)  # type: ignore[no-any-return]
        return torch.cat([first(x[:, :start]), second(x[:, start:])], 1)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, view: View) -> Tensor:
        dropout = self._dropout
        if self.config.numerics == "fused":
            return attend_fused(query, key, value, view, dropout)
        if self.config.numerics == "released":
            return attend_released(query, key, value, view, dropout)
        return attend_written(query, key, value, view, dropout, self.config.attention_relax)


class FeedForward(nn.Module):
    """Linear, tanh-GELU, linear."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.released = config.numerics == "released"
        self.up = nn.Linear(config.hidden, config.ffn_multiple * config.hidden)
        self.down = Output(config.ffn_multiple * config.hidden, config.hidden, self.released)

    def forward(self, x: Tensor) -> Tensor:
        """(b, q, h) -> (b, q, h)."""
        x = self.up(x)
        output: Tensor = self.down(released_gelu(x) if self.released else gelu(x))
        return output


class Branch(nn.Module):
    """A residual branch's LayerNorms and dropout around any function of (b, q, h)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.after_sum, self.dropout = config.norm == "post", config.hidden_dropout
        norms = {"pre": (True, False), "post": (False, True), "sandwich": (True, True)}[config.norm]
        self.norm_in, self.norm_out = (make_norm(config) if used else None for used in norms)

    def forward(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The residual sum of ``x`` and the branch."""
        y = function(x if self.norm_in is None else self.norm_in(x))
        y = F.dropout(y, self.dropout, self.training)
        if self.norm_out is None:
            return x + y
        output: Tensor = self.norm_out(x + y) if self.after_sum else x + self.norm_out(y)
        return output


def make_norm(config: TransformerConfig) -> LayerNorm:
    """A LayerNorm for this configuration."""
    return LayerNorm(config.hidden, config.epsilon, config.norm_relax)


class Block(nn.Module):
    """One layer of the transformer."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.attention_branch, self.attention = Branch(config), Attention(config, layer)
        self.mlp_branch, self.mlp = Branch(config), FeedForward(config)

    def forward(self, x: Tensor, view: View, cache: KVCache | None = None) -> Tensor:
        """(b, q, h) -> (b, q, h)."""
        x = self.attention_branch(x, lambda y: self.attention(y, view, cache))
        output: Tensor = self.mlp_branch(x, self.mlp)
        return output
