"""Plans against counted FLOPs, counted bytes and real optimizer states; the papers' sizes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.training.planning import (
    GIB,
    Machine,
    Work,
    activation_bytes,
    flops_per_token,
    parameters,
    plan,
    read_work,
    score_bytes,
    state_bytes,
)
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.training.planning import loss_of

ROOT = Path(__file__).parents[2]
SMALL = TransformerConfig(layers=3, hidden=64, heads=4, vocab_size=512, max_positions=96, norm="pre")


def test_flops_are_those_that_torch_counts() -> None:
    written = SMALL.model_copy(update={"numerics": "written"})  # torch does not count the fused kernel's
    model = Transformer(written)
    with FlopCounterMode(display=False) as counter:
        loss_of(model, 2, 96).backward()
    work = Work(length=96, batch=2, steps=1)
    stated = flops_per_token(SMALL, work, parameters(SMALL)) * 2 * 96
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


@pytest.mark.parametrize("precision", ["fp32", "fp16-o2"])
def test_scores_that_are_written_out_are_kept(precision: str) -> None:
    """A long, narrow model, where they are most of what autograd keeps."""
    config = SMALL.model_copy(
        update={"hidden": 16, "vocab_size": 16, "norm_relax": "none", "numerics": "written"}
    )
    half = precision == "fp16-o2"
    work = Work(length=96, batch=2, steps=1, recompute=False, half=half, all_half=half)
    model = Transformer(config)
    stated = activation_bytes(config, work, 2)
    assert stated == pytest.approx(saved_bytes(model.half() if half else model, 2, 96), rel=0.15)
    assert activation_bytes(config.model_copy(update={"numerics": "fused"}), work, 2) < 0.7 * stated


def test_scores_by_hand() -> None:
    """After softmax and after dropout 2 bytes each, 1 for a GPU's mask; autocast's softmax is in fp32."""
    written = SMALL.model_copy(update={"numerics": "written"})
    dropped = written.model_copy(update={"attention_dropout": 0.1})
    places = 2 * 4 * 96 * 96
    work = Work(length=96, batch=2, steps=1, all_half=True)
    assert score_bytes(written, work, 2) == 2 * places and score_bytes(dropped, work, 2) == 5 * places
    cast = work.model_copy(update={"all_half": False})
    assert score_bytes(written, cast, 2) == 6 * places and score_bytes(dropped, cast, 2) == 7 * places
    assert score_bytes(SMALL, work, 2) == 0


@pytest.mark.parametrize("sharding", ["none", "zero2", "zero3"])
def test_states_of_all_fp16_training(sharding: str) -> None:
    """By hand: 2 + 2 for weight and gradient, 4 + 8 + 4 for master, moments and the update's gradient."""
    work = Work(length=8, batch=1, steps=1, all_half=True)
    expected = {"none": 20 * 1000, "zero2": 2 * 1000 + 18 * 250, "zero3": 20 * 250 + 2 * 125}
    assert state_bytes(1000, work, sharding, 4) == expected[sharding]  # type: ignore[arg-type]
    frozen = work.model_copy(update={"trained": 0.1})
    assert state_bytes(1000, frozen, "none", 4) == 2 * 1000 + 18 * 100


@pytest.mark.parametrize(
    ("name", "count", "trained"),
    [
        ("cogview2-coglm", 5_902_307_328, None),
        ("cogview2-direct-released", 7_725_895_680, 48 * 4 * (3072 * 3072 + 3072) + 3600 * 3072),
        ("cogview2-iterative-released", 5_913_366_528, None),
    ],
)
def test_cogview2s_recipes_have_plans(
    name: str, count: int, trained: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(ROOT / "recipes" / f"{name}.yaml")
    assert main(["plan", recipe, "--gpus", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == count and found["trained"] == (trained or count)
    assert bool(found["assumed"]) == ("released" in name)
    assert main(["plan", recipe, "--gpus", "64"]) == 0
    said = capsys.readouterr().out
    assert f"{count:,}" in said and ("of them trained" in said) == bool(trained)


def test_a_frozen_base_saves_its_gradients_and_moments() -> None:
    config, work = read_work(ROOT / "recipes" / "cogview2-direct-released.yaml", [], 8)
    assert work.length == 96 + 400 + 3600 and work.trained == pytest.approx(1.82e9 / 7.73e9, rel=0.01)
    assert work.keys == pytest.approx((3600 * (45 + 25) + 496**2) / 4096)
    whole = work.model_copy(update={"trained": 1.0})
    frozen, all_of_it = (state_bytes(parameters(config), w, "none", 8) for w in (work, whole))
    assert frozen < 0.6 * all_of_it
    few, many = (flops_per_token(config, w, parameters(config)) for w in (work, whole))
    assert 0.6 < few / many < 0.9


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


def test_neighbours_have_parts_of_matrices_and_all_of_the_rest() -> None:
    """Counted by hand: query, key, value, output, up and down, with their biases; two norms a layer."""
    h, f = SMALL.hidden, SMALL.hidden * SMALL.ffn_multiple
    for tensor in (1, 2, 4):
        split = (3 * h * h + 3 * h + h * h + f * h + f + h * f) // tensor
        common = 2 * h + 4 * h  # the biases that are added once; two norms
        ends = h * (SMALL.vocab_size + SMALL.max_positions + 2)
        assert parameters(SMALL, tensor) == SMALL.layers * (split + common) + ends


def test_all_but_the_output_matrix_is_shared_work() -> None:
    """What two neighbours compute together beyond one GPU: the logits, and sums with biases and norms."""
    work = Work(length=96, batch=2, steps=1)
    one, two = (flops_per_token(SMALL, work, parameters(SMALL, t), tensor=t) for t in (1, 2))
    again = 3 * 2 * SMALL.hidden * SMALL.vocab_size
    assert again < 2 * two - one < 1.05 * again


def test_layers_split_among_neighbours_need_less_and_wait_for_each_other() -> None:
    work = Work(length=1088, batch=512, steps=1000)
    config, machine = TransformerConfig.cogview_4b(), Machine(gpus=16)
    found = {t: plan(config, work.model_copy(update={"tensor": t}), machine, "zero2") for t in (1, 2, 8)}
    alone, eight = found[1], found[8]
    assert {p.parameters for p in found.values()} == {3_928_849_920} and alone.tensor_seconds == 0
    assert eight.memory.activations / eight.micro_batch < alone.memory.activations / alone.micro_batch
    assert eight.compute_seconds > alone.compute_seconds and eight.tensor_seconds > found[2].tensor_seconds
    # each of the two groups: 256 sequences in 48 layers; rings of 8 send 7/8 twice
    states = 48 * 256 * 1088 * 2560 * (4 * 2 + 2 * 4)
    common = 2560 * (58240 + 1089 + 2 + 48 * (2 + 8)) * 4 / 2
    assert eight.tensor_seconds == pytest.approx((states + common) * 2 * 7 / 8 / 200e9, rel=1e-6)


def test_what_cannot_be_split_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(length=96, batch=8, steps=1, tensor=3)
    with pytest.raises(CogViewError, match=r"3 ranks cannot share model\.heads, 4, evenly"):
        plan(SMALL, work, Machine(gpus=6))
    with pytest.raises(CogViewError, match="6 ranks cannot be divided into groups of 4"):
        plan(SMALL, work.model_copy(update={"tensor": 4}), Machine(gpus=6))
    recipe = str(ROOT / "recipes" / "cogview-paper.yaml")
    sizes = ["--set", "model.vocab_size=58240", "--set", "model.max_positions=1089"]
    asked = ["plan", recipe, *sizes, "--set", "parallel.tensor=4", "--gpus", "64"]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "each layer among 4" in told and "s tensor-parallel reductions" in told
    assert main([*asked, "--gpus", "6"]) == 2
    assert "6 ranks cannot be divided into groups of 4" in capsys.readouterr().err
    assert main([*asked, "--set", "parallel.tensor=16"]) == 2
    assert "16 ranks cannot share model.heads, 40" in capsys.readouterr().err
    assert main([*asked, "--set", "optimizer.kind=muon"]) == 2
    assert "muon does not work with parallel.tensor" in capsys.readouterr().err


def test_the_command_tells_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--set", "model.vocab_size=58240", "--set", "model.max_positions=1089"]
    recipe = str(ROOT / "recipes" / "cogview-paper.yaml")
    assert main(["plan", recipe, *sizes, "--gpus", "512", "--memory", "32", "--flops", "125"]) == 0
    assert "3,928,849,920" in capsys.readouterr().out
    assert main(["plan", recipe]) == 2
    assert "give them: --set model.vocab_size" in capsys.readouterr().err
    assert main(["plan", recipe, *sizes, "--sharding", "zero9"]) == 2
    assert "must be 'none', 'zero2' or 'zero3'" in capsys.readouterr().err
