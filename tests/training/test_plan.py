"""Plans against counted FLOPs, counted bytes and real optimizer states; the papers' sizes."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.training.plan import (
    GIB,
    Machine,
    Work,
    activation_bytes,
    flops_per_token,
    parameters,
    plan,
    state_bytes,
)
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer

ROOT = Path(__file__).parents[2]
SMALL = TransformerConfig(layers=3, hidden=64, heads=4, vocab_size=512, max_positions=96, norm="pre")


def loss_of(model: Transformer, batch: int, length: int) -> torch.Tensor:
    ids = torch.zeros(batch, length, dtype=torch.int64)
    logits = model.logits(model(ids, torch.arange(length)))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


def test_flops_are_those_that_torch_counts() -> None:
    written = SMALL.model_copy(update={"numerics": "written"})  # torch does not count the fused kernel's
    model = Transformer(written)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, 2, 96).backward()
    stated = flops_per_token(SMALL, 96, parameters(SMALL)) * 2 * 96
    assert stated == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_states_are_those_of_a_real_optimizer() -> None:
    model = Transformer(SMALL)
    optimizer = torch.optim.AdamW(model.parameters())
    loss_of(model, 1, 8).backward()
    optimizer.step()
    tensors = [x for state in optimizer.state.values() for x in state.values() if x.numel() > 1]
    tensors += [x for p in model.parameters() for x in (p, p.grad) if x is not None]
    held = sum(x.numel() * x.element_size() for x in tensors)
    work = Work(length=8, batch=1, steps=1, half=False)
    assert state_bytes(parameters(SMALL), work, "none", 1) == held
    assert state_bytes(parameters(SMALL), work, "zero3", 4) == pytest.approx(held / 4, rel=1e-3)


def saved_bytes(model: Transformer, batch: int, length: int) -> int:
    """Bytes of what autograd keeps for the backward pass, weights left out."""
    kept: dict[int, int] = {}
    weights = {p.data_ptr() for p in model.parameters()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = loss_of(model, batch, length)
        total = sum(kept.values())
        del loss
    return total


@pytest.mark.parametrize("norm", ["pre", "sandwich"])
def test_activations_are_near_what_autograd_keeps(norm: str) -> None:
    config = SMALL.model_copy(update={"layers": 8, "hidden": 128, "norm": norm, "norm_relax": "none"})
    work = Work(length=96, batch=4, steps=1, recompute=False, half=False)
    stated = activation_bytes(config, work, 4)
    assert stated == pytest.approx(saved_bytes(Transformer(config), 4, 96), rel=0.1)


def test_the_papers_size_needs_sharding_on_its_own_machines() -> None:
    """CogView: 512 V100 of 32 GiB, 6,144 sequences an update. 63 GB of states do not fit on one."""
    work = Work(length=1088, batch=6144, steps=144_000)
    found = plan(TransformerConfig.cogview_4b(), work, Machine(gpus=512, memory=32, flops=125))
    assert found.parameters == 3_928_849_920
    assert found.sharding in ("zero2", "zero3") and found.memory.total < 32 * GIB
    assert found.micro_batch * found.accumulation * 512 >= 6144
    with pytest.raises(CogViewError, match=r"needs .* GiB each, there are 8"):
        plan(TransformerConfig.cogview_4b(), work, Machine(gpus=1, memory=8))


def plans() -> Iterator[float]:
    work = Work(length=1088, batch=512, steps=1000)
    for gpus in (8, 16, 64, 256):
        yield plan(TransformerConfig.cogview_4b(), work, Machine(gpus=gpus)).days


def test_more_machines_are_faster_but_never_better_than_in_proportion() -> None:
    days = list(plans())
    assert days == sorted(days, reverse=True)
    assert days[0] / days[-1] <= 32 * (1 + 1e-9)


def test_the_command_tells_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--set", "model.vocab_size=58240", "--set", "model.max_positions=1089"]
    recipe = str(ROOT / "recipes" / "cogview-paper.yaml")
    assert main(["plan", recipe, *sizes, "--gpus", "512", "--memory", "32", "--flops", "125"]) == 0
    assert "3,928,849,920" in capsys.readouterr().out
    assert main(["plan", recipe]) == 2
    assert "give them: --set model.vocab_size" in capsys.readouterr().err
    assert main(["plan", recipe, *sizes, "--sharding", "zero9"]) == 2
    assert "none, zero2, zero3" in capsys.readouterr().err
