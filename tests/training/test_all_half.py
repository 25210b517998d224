"""All-fp16 training (O2): fp16 weights, fp32 masters, dynamic loss scale; with the guard, EMA and resume."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cogview.errors import CogViewError, TrainingDiverged
from cogview.training.checkpoint.directory import latest_checkpoint, list_checkpoints
from cogview.training.ema import MovingAverage
from cogview.training.launch import join_ranks
from cogview.training.optim import AdamWConfig, PhaseOptimizer
from cogview.training.tasks.transformer import TransformerTask
from tests.training.runs import VOCABULARY, caption, fit, recipe, write_data
from tests.training.tiny import TinyRecipe, TinyTask

HALF = {
    "precision": "fp16-o2", "optimizer": {"lr": 0.002}, "steps": 24, "loss_scaler": {"scale": 1024.0},
    "intervals": {"log": 1, "evaluate": 24, "sample": 0, "checkpoint": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), caption, VOCABULARY, "1" * 16, "2" * 64)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "half"
    fit(recipe(data, **HALF), directory)
    return directory


def train_lines(directory_lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in directory_lines if line["kind"] == "train"]


def masters(directory: Path) -> dict[str, torch.Tensor]:
    found = latest_checkpoint(directory / "checkpoints", print)
    assert found is not None
    return dict(found.tensors["model"])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_it_is_adamw_on_fp32_copies_of_fp16_weights(
    accumulation: int, data: Path, run: Path, tmp_path: Path
) -> None:
    """The whole run again, by hand: nothing but torch's AdamW, with every gradient from fp16 weights, and
    those of micro-batches added up in fp32."""
    given = recipe(data, **HALF, accumulation=accumulation)
    if accumulation > 1:
        run = tmp_path / "run"
        fit(given, run)
    task = TransformerTask(given)
    torch.manual_seed(given.seed)
    model = task.build().half().train()
    copies = {name: value.detach().float().requires_grad_() for name, value in model.named_parameters()}
    decays = [
        {"params": [v for v in copies.values() if (v.ndim >= 2) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, 0.04), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(decays, lr=0.002, betas=(0.9, 0.95), eps=1e-8, fused=True)
    loader = task.loader(None)
    for step in range(given.steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.002 * given.schedule.factor(step, given.steps)
        optimizer.zero_grad()
        for _ in range(accumulation):
            batch, _ = next(loader)
            loss, _ = task.loss(model, batch, step, "model")
            model.zero_grad()
            (loss * (1 / accumulation) * 1024).backward()
            for name, value in model.named_parameters():
                added = value.grad.float() / 1024
                copies[name].grad = added if copies[name].grad is None else copies[name].grad + added
        nn.utils.clip_grad_norm_(copies.values(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in model.named_parameters():
                value.copy_(copies[name])
    kept, exported = masters(run), load_file(run / "model" / "model.safetensors")
    for name, value in copies.items():
        assert kept[name].dtype == torch.float32 and torch.equal(kept[name], value)
        assert torch.equal(exported[name].half(), value.half())
    assert any(not torch.equal(value, value.half().float()) for value in kept.values())


def test_it_learns_as_fp32_does(data: Path, run: Path, tmp_path: Path) -> None:
    lines = train_lines(fit(recipe(data, **{**HALF, "precision": "fp32", "loss_scaler": {}}), tmp_path / "x"))
    half = train_lines([*_lines(run)])
    for one, two in zip(lines, half, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.01)


def _lines(directory: Path) -> list[dict[str, Any]]:
    from cogview.training.metrics_file import MetricsFile

    return MetricsFile(directory / "metrics.jsonl").lines()


def cut(run: Path, to: Path, step: int = 8) -> Path:
    shutil.copytree(run, to)
    for path in list_checkpoints(to / "checkpoints"):
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)
    return to


def test_resumes_bit_for_bit(data: Path, run: Path, tmp_path: Path) -> None:
    again = cut(run, tmp_path / "again")
    fit(recipe(data, **HALF), again, resume=True)
    one, two = masters(run), masters(again)
    assert all(torch.equal(one[name], value) for name, value in two.items())
    facts = ("step", "loss", "loss_scale", "grad_norm")
    once, twice = (
        [[line[key] for key in facts] for line in train_lines(_lines(path))] for path in (run, again)
    )
    assert once == twice


def test_goes_on_in_another_precision_from_the_masters(data: Path, run: Path, tmp_path: Path) -> None:
    """In fp32 for the rest: the curve is that of the all-fp16 run to its rounding."""
    other = cut(run, tmp_path / "other")
    before = masters(other)
    fit(recipe(data, **{**HALF, "precision": "fp32", "loss_scaler": {}}), other, resume=True)
    found = load_file(sorted((other / "checkpoints").iterdir())[-1] / "model.safetensors")
    assert set(found) == set(before) and all(value.dtype == torch.float32 for value in found.values())
    lines = train_lines(_lines(other))
    assert len(lines) == 24 and lines[-1]["loss"] == pytest.approx(
        train_lines(_lines(run))[-1]["loss"], rel=0.01
    )


def test_the_average_is_of_the_masters() -> None:
    model = nn.Linear(3, 2, bias=False).half()
    optimizer = PhaseOptimizer(model.named_parameters(), AdamWConfig(), set(), masters=True)
    average = MovingAverage(optimizer, 0.5)
    master = optimizer.updated["weight"]
    start = master.detach().clone()
    with torch.no_grad():
        master.add_(1e-6)  # less than fp16 can hold beside the weight
    optimizer.publish()
    average.update()  # the first decay is (1 + 0) / (10 + 0)
    expected = start + 0.9 * (master.detach() - start)
    assert torch.allclose(average.average["weight"], expected, rtol=0, atol=1e-7)
    held, kept = master.detach().clone(), average.average["weight"].clone()
    with average.swapped_in():
        assert torch.equal(model.weight, kept.half()) and torch.equal(master, kept)
    assert torch.equal(master, held) and torch.equal(average.average["weight"], kept)
    assert torch.equal(model.weight, held.half())


def test_the_search_for_a_loss_scale_is_no_divergence(data: Path, tmp_path: Path) -> None:
    """A scale of 2 ** 24 overflows many times in a row: more than the guard's patience, and no rollback."""
    fields = {**HALF, "loss_scaler": {"scale": 2.0**24, "patience": 1}, "guard": {"patience": 2}}
    lines = fit(recipe(data, **fields), tmp_path / "run")
    left_out = [line["step"] for line in lines if line["kind"] == "skipped"]
    assert left_out == list(range(1, len(left_out) + 1)) and len(left_out) > 3
    assert not [line for line in lines if line["kind"] == "rollback"]
    last = train_lines(lines)[-1]
    assert last["loss_scale"] == 2.0 ** (24 - len(left_out)) and last["skipped"] == 0


def test_a_run_that_only_sought_its_scale_has_trained_nothing(data: Path, tmp_path: Path) -> None:
    fields = {**HALF, "steps": 3, "loss_scaler": {"scale": 2.0**30}}
    with pytest.raises(TrainingDiverged, match="no update was made: the gradient is not finite"):
        fit(recipe(data, **fields), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_gradients_that_overflow_at_the_least_scale_roll_back(data: Path, tmp_path: Path) -> None:
    """Once the scale can fall no further the guard counts again."""
    fields = {
        **HALF, "steps": 60, "guard": {"patience": 3},
        "loss_scaler": {"scale": 2.0**24, "minimum": 2.0**22, "patience": 1},
    }  # fmt: skip
    with pytest.raises(TrainingDiverged, match=r"step 5: .* 3 times in a row"):
        fit(recipe(data, **fields), tmp_path / "run")


def test_muon_has_masters_too(data: Path, tmp_path: Path) -> None:
    fields = {**HALF, "optimizer": {"kind": "muon", "lr": 0.002}}
    lines = train_lines(fit(recipe(data, **fields), tmp_path / "muon"))
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]


def test_an_adapter_has_masters_and_its_base_none(data: Path, run: Path, tmp_path: Path) -> None:
    fields = {**HALF, "model": None, "init": str(run), "lora": {"rank": 2}, "optimizer": {"lr": 0.01}}
    fit(recipe(data, **fields), tmp_path / "adapter")
    kinds = {name: value.dtype for name, value in masters(tmp_path / "adapter").items()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == {
        n for n in kinds if "lora" in n
    }
    assert (tmp_path / "adapter" / "model" / "lora.safetensors").is_file()


@pytest.mark.parametrize("numerics", ["written", "released"])
def test_scores_in_half_precision(numerics: str, data: Path, tmp_path: Path) -> None:
    """Scores in fp16, by equation 4 where written out, and dropout: the loss falls, nothing overflows."""
    model = {"layers": 2, "hidden": 32, "heads": 2, "numerics": numerics, "attention_dropout": 0.1}
    fields = {**HALF, "model": {**model, "attention_relax": 32.0 if numerics == "written" else None}}
    lines = train_lines(fit(recipe(data, **fields), tmp_path / "run"))
    assert lines[-1]["loss"] < lines[0]["loss"] and not any(line["skipped"] for line in lines)


def test_only_transformers_train_so() -> None:
    with pytest.raises(CogViewError, match="precision: tiny does not train in fp16-o2"):
        join_ranks(TinyTask(TinyRecipe(precision="fp16-o2")), TinyRecipe(precision="fp16-o2"))
