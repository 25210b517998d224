"""LayerNorm and its PB-relaxed forms against formulas in plain Python and in float64."""

import math

import pytest
import torch
from torch import Tensor

from cogview.transformer.block import LayerNorm
from cogview.transformer.config import NormRelax


def norm(
    hidden: int, relax: NormRelax, epsilon: float = 1e-5, dtype: torch.dtype = torch.float64
) -> LayerNorm:
    layer = LayerNorm(hidden, epsilon, relax).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(hidden, generator=generator) + 0.5)
        layer.bias.copy_(torch.randn(hidden, generator=generator))
    return layer


def by_hand(row: list[float], layer: LayerNorm, epsilon: float) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((x - mean) ** 2 for x in row) / len(row)
    scale = 1 / math.sqrt(variance + epsilon)
    pairs = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [(x - mean) * scale * w + b for x, (w, b) in zip(row, pairs, strict=True)]


@pytest.mark.parametrize("relax", ["none", "token", "tensor"])
def test_equals_plain_norm_with_a_scaled_epsilon(relax: NormRelax) -> None:
    epsilon, x = 0.1, torch.randn(2, 3, 5, dtype=torch.float64)  # an epsilon that shows
    layer = norm(5, relax, epsilon)
    for row, out in zip(x.reshape(-1, 5).tolist(), layer(x).reshape(-1, 5).tolist(), strict=True):
        largest = {"none": 1.0, "token": max(map(abs, row)), "tensor": x.abs().max().item() / 8}[relax]
        assert out == pytest.approx(by_hand(row, layer, epsilon * largest**2), abs=1e-12)


def test_tokens_are_independent_with_the_token_form_only() -> None:
    x = torch.randn(4, 6, 8)
    changed = x.clone()
    changed[0, 0] *= 100
    expected: list[tuple[NormRelax, bool]] = [("none", True), ("token", True), ("tensor", False)]
    for relax, independent in expected:
        layer = norm(8, relax, dtype=torch.float32)
        assert torch.equal(layer(x)[1:], layer(changed)[1:]) is independent


def test_zeros_stay_finite_by_token_and_are_nan_as_released() -> None:
    x = torch.zeros(1, 2, 4)
    assert torch.equal(norm(4, "token", dtype=torch.float32)(x)[0, 0], norm(4, "none").bias.float())
    assert norm(4, "tensor", dtype=torch.float32)(x).isnan().all()


@pytest.mark.parametrize("relax", ["token", "tensor"])
def test_the_largest_value_carries_no_gradient(relax: NormRelax) -> None:
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    layer, target = norm(6, relax, 0.1), torch.randn(2, 3, 6, dtype=torch.float64)
    (got,) = torch.autograd.grad((layer(x) * target).sum(), x)

    magnitude = x.abs().amax(-1, keepdim=True) if relax == "token" else x.abs().max() / 8
    y = (x / magnitude).detach().requires_grad_()
    centred = y - y.mean(-1, keepdim=True)
    out = centred / (centred.square().mean(-1, keepdim=True) + 0.1).sqrt() * layer.weight + layer.bias
    (by_y,) = torch.autograd.grad((out * target).sum(), y)
    torch.testing.assert_close(got, (by_y / magnitude).detach())


def half_precision_norm(x: Tensor) -> Tensor:
    """LayerNorm with its statistics in the dtype of the input, as a kernel without float32 has it."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def test_half_precision_statistics_overflow_unless_relaxed() -> None:
    """The paper's bottleneck: outputs of 1e4 and more in the deep layers."""
    x = torch.randn(3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2e4
    exact = half_precision_norm(x)
    half = x.clamp(-6e4, 6e4).half()
    assert half.isfinite().all()
    assert half_precision_norm(half).abs().max() == 0  # the variance is infinite
    relaxed = half_precision_norm(half / half.abs().amax(-1, keepdim=True))
    torch.testing.assert_close(relaxed.double(), exact, rtol=0, atol=5e-3)
    for layer in (LayerNorm(16, relax="token").half(), LayerNorm(16, relax="tensor").half()):
        torch.testing.assert_close(layer(half).double(), exact, rtol=0, atol=5e-3)


@pytest.mark.parametrize("relax", ["none", "token", "tensor"])
def test_half_precision_keeps_its_dtype(relax: NormRelax) -> None:
    assert LayerNorm(8, relax=relax).half()(torch.randn(2, 3, 8).half()).dtype == torch.float16
