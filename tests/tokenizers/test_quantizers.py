"""The codebook methods against brute force, closed forms and their defining properties."""

import pytest
import torch

from cogview.tokenizers.quantizers import (
    METHODS,
    GumbelQuantizer,
    Method,
    MovingAverageQuantizer,
    codebook_perplexity,
    kmeans,
    make_quantizer,
)

ALL: list[Method] = list(METHODS)


@pytest.mark.parametrize("method", ALL)
def test_codes_are_the_nearest(method: Method) -> None:
    torch.manual_seed(0)
    q = make_quantizer(method, 20, 3).eval()
    z = torch.randn(2, 5, 3)
    book = q.codebook.detach()
    brute = torch.tensor(
        [[min(range(20), key=lambda k: float((v - book[k]).norm())) for v in row] for row in z]
    )
    result = q(z)
    assert torch.equal(result.codes, brute)
    torch.testing.assert_close(result.vectors, q.codebook[brute])


@pytest.mark.parametrize("method", ["nearest", "gumbel", "moving_average", "fixed"])
def test_codes_are_the_nearest_under_autocast(method: Method) -> None:
    """Codes so close together that products of half precision do not tell them apart."""
    torch.manual_seed(0)
    q = make_quantizer(method, 200, 8).eval()
    with torch.no_grad():
        q.initialise(1 + 0.05 * torch.randn(200, 8))
    z = 1 + 0.05 * torch.randn(500, 8)
    exact = (z[:, None].double() - q.codebook.detach().double()).pow(2).sum(-1)  # (500, 200)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(q.encode(z), exact.argmin(1))
        torch.testing.assert_close(q.distances(z).double(), exact, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["nearest", "moving_average", "fixed"])
def test_straight_through_passes_the_gradient_unchanged(method: Method) -> None:
    q = make_quantizer(method, 8, 3)
    z = torch.randn(4, 3, requires_grad=True)
    weight = torch.randn(4, 3)
    (q(z).vectors * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_commitment_has_its_closed_form() -> None:
    q = make_quantizer("fixed", 8, 3, 0.7).eval()
    z = torch.randn(4, 3, requires_grad=True)
    result = q(z)
    result.loss.backward()
    torch.testing.assert_close(z.grad, 0.7 * 2 * (z - result.vectors).detach() / z.numel())


def test_who_learns_the_codebook() -> None:
    for method in ALL:
        q = make_quantizer(method, 8, 3).train()
        before = q.codebook.detach().clone()
        z = torch.randn(16, 3)
        result = q(z)
        ((result.vectors**2).sum() + result.loss).backward() if q.codebook.requires_grad else None
        by_gradient = q.codebook.requires_grad and q.codebook.grad is not None and bool(q.codebook.grad.any())
        moved = not torch.equal(q.codebook.detach(), before)
        assert (by_gradient, moved) == {
            "nearest": (True, False),
            "gumbel": (True, False),
            "moving_average": (False, True),
            "fixed": (False, False),
        }[method]


def test_the_moving_average_converges_to_the_mean_of_its_vectors() -> None:
    torch.manual_seed(1)
    q = MovingAverageQuantizer(2, 2).train()
    q.assign(torch.tensor([0, 1]), torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    z = torch.cat([torch.randn(50, 2) * 0.1 + 3, torch.randn(50, 2) * 0.1 - 2])
    for _ in range(1500):
        q(z)
    torch.testing.assert_close(
        q.codebook, torch.stack([z[:50].mean(0), z[50:].mean(0)]), rtol=1e-3, atol=1e-3
    )


def test_gumbel_samples_follow_the_softmax_of_distances() -> None:
    torch.manual_seed(0)
    q = GumbelQuantizer(4, 2).train()
    q.temperature = 1.5
    z = torch.randn(1, 2)
    expected = (-((q.codebook - z) ** 2).sum(1) / 1.5).softmax(0)
    counts = torch.bincount(q(z.expand(20000, 2)).codes, minlength=4) / 20000
    torch.testing.assert_close(counts, expected.detach(), rtol=0, atol=0.015)


def test_the_gumbel_temperature_falls_to_its_end() -> None:
    q = GumbelQuantizer(4, 2)
    seen = []
    for i in range(11):
        q.progress(i / 10)
        seen.append(q.temperature)
    assert seen[0] == q.start and seen[-1] == q.end and seen == sorted(seen, reverse=True)


def test_perplexity_of_known_histograms() -> None:
    assert float(codebook_perplexity(torch.tensor([7, 7, 7, 7]))) == pytest.approx(4)
    assert float(codebook_perplexity(torch.tensor([9, 0, 0, 0]))) == pytest.approx(1)


def test_dead_codes_restart_on_the_batch() -> None:
    q = MovingAverageQuantizer(6, 2).train()
    q.usage.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 1.0]))
    z = torch.randn(10, 2)
    kept = q.codebook[[0, 2, 4, 5]].clone()
    assert q.restart(z) == 2
    assert torch.equal(q.codebook[[0, 2, 4, 5]], kept)
    assert all(any(torch.equal(q.codebook[i], v) for v in z) for i in (1, 3))
    assert make_quantizer("fixed", 6, 2).train().restart(z, below=2.0) == 0


def test_kmeans_finds_separated_centres() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat_interleave(100, 0) + 0.1 * torch.randn(300, 2)
    found = kmeans(points, 3, 20)
    assert torch.cdist(centres, found).min(1).values.max() < 0.1


def test_finite_scalar_codes_are_the_nearest_points_of_the_grid() -> None:
    """Codes of random vectors against a search over the whole grid, and each code's own vector."""
    torch.manual_seed(0)
    q = make_quantizer("finite_scalar", 1000, 4)
    assert q.codebook.shape == (1000, 4) and len(q.codebook.unique(dim=0)) == 1000
    z = 2 * torch.randn(50, 4)
    squashed = 2 / (1 + (-1.6 * z).exp()) - 1
    nearest = (squashed[:, None] - q.codebook[None]).pow(2).sum(-1).argmin(1)
    assert torch.equal(q.encode(z), nearest)
    inside = q.codebook.clamp(-0.99, 0.99)  # a code's own vector, brought back through the squashing
    assert torch.equal(q.encode(((1 + inside) / (1 - inside)).log() / 1.6), torch.arange(1000))


def test_finite_scalar_passes_the_gradient_of_the_squashing_and_never_moves() -> None:
    q = make_quantizer("finite_scalar", 1024, 4).train()
    before = q.codebook.clone()
    z = torch.randn(6, 4, requires_grad=True)
    result = q(z)
    (result.vectors.sum() + result.loss).backward()
    expected = torch.autograd.functional.jacobian(
        lambda x: (2 * torch.sigmoid(1.6 * x) - 1).sum(), z.detach()
    )
    torch.testing.assert_close(z.grad, expected)
    assert q.restart(z.detach(), 1e9) == 0
    q.initialise(torch.zeros(1024, 4))
    assert torch.equal(q.codebook, before)


def test_finite_scalar_uses_its_levels_evenly_on_a_normal_distribution() -> None:
    torch.manual_seed(0)
    q = make_quantizer("finite_scalar", 64, 2)
    counts = torch.bincount(q.encode(torch.randn(20000, 2)), minlength=64)
    assert codebook_perplexity(counts) > 55


def test_finite_scalar_says_which_sizes_there_are() -> None:
    with pytest.raises(ValueError, match=r"1000 \(code_dim 4\)"):
        make_quantizer("finite_scalar", 999, 4)
    with pytest.raises(ValueError, match="code_dim 5"):
        make_quantizer("finite_scalar", 1000, 5)
