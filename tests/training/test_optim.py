"""AdamW against its formula, Newton-Schulz against the singular value decomposition, Muon against torch's."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from cogview.training.optim import (
    CLASSICAL,
    MARGIN,
    QUINTICS,
    AdamWConfig,
    Muon,
    MuonConfig,
    PhaseOptimizer,
    hidden_matrices,
    orthogonalise,
)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def set_gradients(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def optimizer(module: nn.Module, config: AdamWConfig | MuonConfig) -> PhaseOptimizer:
    return PhaseOptimizer(module.named_parameters(), config, hidden_matrices(module))


def test_adamw_follows_its_formula() -> None:
    """Loshchilov & Hutter, algorithm 2, in double precision by hand; no decay on norms and biases."""
    module, config = model(), AdamWConfig(lr=0.01, weight_decay=0.3)
    values = {name: p.detach().double() for name, p in module.named_parameters()}
    first = {name: torch.zeros_like(v) for name, v in values.items()}
    second = {name: torch.zeros_like(v) for name, v in values.items()}
    ours = optimizer(module, config)
    for step in range(1, 4):
        set_gradients(module, step)
        for name, p in module.named_parameters():
            gradient = p.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.95 * second[name] + 0.05 * gradient**2
            decay = 0.3 if p.ndim >= 2 else 0.0
            move = (first[name] / (1 - 0.9**step)) / ((second[name] / (1 - 0.95**step)).sqrt() + 1e-8)
            values[name] = values[name] * (1 - 0.01 * decay) - 0.01 * move
        ours.step()
    for name, p in module.named_parameters():
        assert torch.allclose(p.double(), values[name], atol=1e-6), name


def test_only_norms_and_biases_are_spared_decay() -> None:
    module = model()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer(module, AdamWConfig(lr=0.5, weight_decay=0.5)).step()
    for name, p in module.named_parameters():
        expected = before[name] * (0.75 if name in ("0.weight", "1.weight", "3.weight") else 1)
        assert torch.allclose(p, expected), name


def by_singular_values(matrix: Tensor, steps: int) -> Tensor:
    """What the iteration must give: the same polynomial applied to the singular values alone."""
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / (MARGIN * (values**8).sum() ** 0.125)
    for a, b, c in [*QUINTICS, *[CLASSICAL] * (steps - len(QUINTICS))][:steps]:
        values = a * values + b * values**3 + c * values**5
    return left @ torch.diag_embed(values) @ right


@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4), (1, 6)])
@pytest.mark.parametrize("steps", [2, 4, 6])
def test_newton_schulz_against_svd(shape: tuple[int, int], steps: int) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    got = orthogonalise(matrices, steps)
    for matrix, result in zip(matrices, got, strict=True):
        assert torch.allclose(result.double(), by_singular_values(matrix, steps), atol=1e-4)


def test_the_quintics_bring_every_value_near_one() -> None:
    """On all that is promised, and a little above 1, where rounding may put the largest."""
    values = torch.logspace(math.log10(0.003), math.log10(MARGIN), 100_000, dtype=torch.float64)
    for a, b, c in QUINTICS:
        values = a * values + b * values**3 + c * values**5
    assert values.min() > 0.75 and values.max() < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_orthogonalised_is_nearly_orthogonal(dtype: torch.dtype, spread: float) -> None:
    """Whether the singular values are alike or two powers of ten apart; zero stays zero."""
    generator = torch.Generator().manual_seed(2)
    left, _, right = torch.linalg.svd(torch.randn(2, 16, 32, generator=generator), full_matrices=False)
    given = left * torch.logspace(0, -spread, 16) @ right
    values = torch.linalg.svdvals(orthogonalise(given, dtype=dtype))
    assert values.min() > 0.7 and values.max() < 1.3
    assert not orthogonalise(torch.zeros(1, 3, 4), dtype=dtype).any()


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("scale", ["rms", "spectral"])
def test_muon_follows_its_formula(scale: str, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nesterov momentum, the iteration on singular values, decay and scale, in double precision by hand."""
    monkeypatch.setattr("cogview.training.optim.multiplies_bf16", lambda: True)
    layer = nn.Linear(8, 12, bias=False)
    expected, start = layer.weight.detach().double(), layer.weight.detach().clone()
    config = MuonConfig.model_validate({"kind": "muon", "lr": 0.05, "weight_decay": 0.1, "scale": scale})
    mine, momentum = Muon(layer.named_parameters(), config, half), torch.zeros(12, 8, dtype=torch.float64)
    for step in range(3):
        set_gradients(layer, step)
        gradient = layer.weight.grad.double()
        momentum = 0.95 * momentum + 0.05 * gradient
        direction = by_singular_values(0.05 * gradient + 0.95 * momentum, 4)
        factor = 0.2 * 12**0.5 if scale == "rms" else (12 / 8) ** 0.5
        expected = expected * (1 - 0.05 * 0.1) - 0.05 * factor * direction
        mine.step()
    assert (layer.weight - expected).norm() < (0.1 if half else 1e-4) * (expected - start).norm()


def test_split_matrices_move_like_separate_ones() -> None:
    whole, parts = nn.Linear(4, 12, bias=False), [nn.Linear(4, 4, bias=False) for _ in range(3)]
    config = MuonConfig(kind="muon", split={"qkv.weight": 3})
    optimizers = [Muon([("block.qkv.weight", whole.weight)], config)]
    whole.weight.grad = torch.randn(12, 4, generator=torch.Generator().manual_seed(3))
    for index, part in enumerate(parts):
        part.weight.data.copy_(whole.weight[4 * index : 4 * index + 4])
        part.weight.grad = whole.weight.grad[4 * index : 4 * index + 4].clone()
        optimizers.append(Muon([("weight", part.weight)], config))
    for each in optimizers:
        each.step()
    assert torch.allclose(whole.weight, torch.cat([part.weight for part in parts]), atol=1e-6)


def test_muon_takes_hidden_matrices_only() -> None:
    module = model()
    found = optimizer(module, MuonConfig(kind="muon"))
    muon = found.optimizers[0]
    assert isinstance(muon, Muon)
    assert {id(p) for p in muon.param_groups[0]["params"]} == {id(module[1].weight), id(module[3].weight)}


@pytest.mark.parametrize("config", [AdamWConfig(lr=0.01), MuonConfig(kind="muon")], ids=["adamw", "muon"])
def test_state_goes_on_exactly(config: AdamWConfig | MuonConfig) -> None:
    one, two = model(), model()
    first = optimizer(one, config)
    for step in range(6):
        set_gradients(one, step)
        first.step()
        if step == 2:
            halfway = {name: value.clone() for name, value in first.tensors().items()}
            weights = copy.deepcopy(one.state_dict())
    two.load_state_dict(weights)
    second = optimizer(two, config)
    second.load(halfway)
    for step in range(3, 6):
        set_gradients(two, step)
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_state_keeps_the_memory_layout() -> None:
    convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    found = PhaseOptimizer(convolution.named_parameters(), AdamWConfig(), set())
    set_gradients(convolution, 0)
    found.step()
    saved = {name: value.contiguous() for name, value in found.tensors().items()}
    again = PhaseOptimizer(convolution.named_parameters(), AdamWConfig(), set())
    again.load(saved)
    assert again.optimizers[0].state[convolution.weight]["exp_avg"].stride() == convolution.weight.stride()


def test_rates_follow_the_factor() -> None:
    found = optimizer(model(), MuonConfig(kind="muon", lr=0.02, adam_lr=0.004))
    assert found.set_rate(0.5) == 0.01
    assert {group["lr"] for each in found.optimizers for group in each.param_groups} == {0.01, 0.002}
