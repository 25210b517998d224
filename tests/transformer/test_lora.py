"""LoRA by its definition: zero at the start, a sum of matrices after, and nothing else ever moves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.transformer.lora import (
    TARGETS,
    LoRAConfig,
    adapter_parameters,
    apply_adapter,
    attach,
    detach,
    fingerprint,
    save_adapter,
)
from cogview.transformer.model import Transformer
from tests.generation import tiny

IDS = torch.arange(24).view(2, 12) * 5 % 300


def output(model: Transformer, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model.logits(model(ids, torch.arange(ids.shape[1])))


def adapted(config: LoRAConfig, seed: int = 1) -> Transformer:
    """An adapted model whose low-rank parts are not zero."""
    model = tiny.transformer()
    attach(model, config)
    torch.manual_seed(seed)
    for _, parameter in adapter_parameters(model):
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("targets", [TARGETS, ("attention.qkv",), ("mlp.up", "mlp.down")])
def test_a_fresh_adapter_changes_nothing(targets: tuple[str, ...]) -> None:
    model = tiny.transformer()
    before = output(model)
    attach(model, LoRAConfig.model_validate({"rank": 3, "targets": targets}))
    assert sum(1 for _ in adapter_parameters(model)) == 2 * len(targets) * model.config.layers
    assert torch.equal(output(model), before)


def test_the_sum_is_the_definition() -> None:
    """One layer against W x + b + alpha / rank * B (A x), each product on its own."""
    model = adapted(LoRAConfig(rank=2, alpha=6.0, targets=("mlp.up",)))
    layer, x = model.get_submodule("blocks.0.mlp.up"), torch.randn(5, 32)
    a, b = (p.detach() for p in (layer.lora_A, layer.lora_B))
    plain = x @ layer.base.weight.T + layer.base.bias
    assert torch.allclose(layer(x), plain + 3.0 * (x @ a.T) @ b.T, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 4, 40])
def test_merged_equals_unmerged(rank: int, tmp_path: Path) -> None:
    config = LoRAConfig(rank=rank, alpha=2.0 * rank)
    model = adapted(config)
    apart, base = output(model), output(tiny.transformer())
    save_adapter(model, config, tmp_path)
    assert (apart - base).abs().max() > 0.1
    scale = apart.abs().max()
    detach(model)
    assert not list(adapter_parameters(model))
    loaded = tiny.transformer()
    apply_adapter(loaded, tmp_path)
    for merged in (model, loaded):
        assert (output(merged) - apart).abs().max() <= 1e-5 * scale
    assert {name for name, _ in model.named_parameters()} == {n for n, _ in loaded.named_parameters()}


def test_strength_scales_what_is_added(tmp_path: Path) -> None:
    config = LoRAConfig(rank=2)
    save_adapter(adapted(config), config, tmp_path)
    plain, half, none = tiny.transformer(), tiny.transformer(), tiny.transformer()
    apply_adapter(half, tmp_path, 0.5)
    apply_adapter(none, tmp_path, 0.0)
    assert torch.equal(output(none), output(plain))
    full = adapted(config).get_submodule("blocks.1.attention.qkv").weight.detach()
    name = "blocks.1.attention.qkv.weight"
    before, after = (m.get_parameter(name).detach() for m in (plain, half))
    assert torch.allclose(after, (before + full) / 2, atol=1e-6)


def test_only_the_adapter_takes_gradients_and_dropout_is_in_training_only() -> None:
    model = adapted(LoRAConfig(rank=2, dropout=0.5))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in dict(adapter_parameters(model)))
    model.train()
    first, second = output(model), output(model)
    assert not torch.equal(first, second)
    assert torch.equal(output(model.eval()), output(model))
    model.logits(model(IDS, torch.arange(12))).square().mean().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moved == dict(adapter_parameters(model)).keys()


def test_pictures_on_the_way_are_drawn_with_the_adapter() -> None:
    model = adapted(LoRAConfig(rank=2))
    packed = pack(model).layers[1].up
    detach(model)
    x = torch.randn(3, 32)
    assert torch.allclose(packed(x), pack(model).layers[1].up(x), atol=1e-5)


def test_another_model_and_damage_are_refused(tmp_path: Path) -> None:
    config = LoRAConfig(rank=2)
    save_adapter(adapted(config), config, tmp_path)
    assert fingerprint(tiny.transformer()) == json.loads((tmp_path / "lora.json").read_text())["base"]
    for model, said in (
        (tiny.transformer(seed=3), "another model"),
        (tiny.transformer(layers=1), "does not fit"),
        (tiny.transformer(hidden=64), "does not fit"),
    ):
        before = output(model)
        with pytest.raises(CogViewError, match=said):
            apply_adapter(model, tmp_path)
        assert torch.equal(output(model), before)
    weights = tmp_path / "lora.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CogViewError, match=r"damaged|cannot be read"):
        apply_adapter(tiny.transformer(), tmp_path)
    (tmp_path / "lora.json").write_text('{"rank": 0}')
    with pytest.raises(CogViewError, match="rank"):
        apply_adapter(tiny.transformer(), tmp_path)
