"""GELU with its slope kept, against PyTorch's own and against finite differences."""

import pytest
import torch
from torch.nn import functional as F

from cogview.transformer import activation


@pytest.fixture(autouse=True)
def _in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activation, "FEWEST", 1)
    monkeypatch.setattr(activation, "CHUNK", 7)


def both(x: torch.Tensor) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """(value, gradient of its weighted sum) by ours and by PyTorch's kernel."""
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    found = []
    for function in (activation.gelu, lambda x: F.gelu(x, approximate="tanh")):
        given = x.clone().requires_grad_()
        value = function(given)
        value.backward(weights)
        assert given.grad is not None
        found.append((value.detach(), given.grad))
    return tuple(found)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 0.02)], ids=["fp32", "bf16"]
)
def test_it_is_pytorchs(dtype: torch.dtype, tolerance: float) -> None:
    x = torch.cat([torch.linspace(-12, 12, 101), torch.tensor([0.0, -200.0, 200.0])]).to(dtype)
    ours, theirs = both(x.view(8, 13))
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert torch.allclose(mine.float(), reference.float(), rtol=tolerance, atol=tolerance)


def test_the_slope_is_that_of_the_values() -> None:
    """By central differences in float64 of the defining formula."""
    x = torch.linspace(-5, 5, 60)

    def defined(x: torch.Tensor) -> torch.Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))

    wide = x.double()
    expected = (defined(wide + 1e-5) - defined(wide - 1e-5)) / 2e-5
    given = x.clone().requires_grad_()
    activation.gelu(given).sum().backward()
    assert given.grad is not None
    assert torch.allclose(given.grad.double(), expected, atol=1e-5)


def test_a_transposed_input_keeps_its_places() -> None:
    ours, theirs = both(torch.randn(6, 10, generator=torch.Generator().manual_seed(2)).T)
    assert torch.allclose(ours[0], theirs[0], atol=1e-6) and torch.allclose(ours[1], theirs[1], atol=1e-5)


def test_without_gradients_or_in_float64_it_is_the_kernel_itself() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.equal(activation.gelu(x.requires_grad_()), F.gelu(x, approximate="tanh"))
    for mine, reference in zip(*both(x.detach().double()), strict=True):
        assert torch.equal(mine, reference)


def test_compiled_it_is_pytorchs_too() -> None:
    """The form that is traced, run without a compiler."""
    x = torch.linspace(-6, 6, activation.FEWEST, requires_grad=True)
    compiled = torch.compile(activation.gelu, backend="eager")(x)
    assert torch.allclose(compiled, F.gelu(x, approximate="tanh"), atol=1e-5)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (compiled, F.gelu(x, approximate="tanh"))]
    assert torch.allclose(*slopes, atol=1e-5)
