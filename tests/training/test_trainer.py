"""The loop: what accumulates, what stops it, what resumes it, what it leaves behind."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.training.launch import prepare_directory
from cogview.training.recipe import Intervals
from cogview.training.task import load_weights, to_device
from cogview.training.trainer import Trainer
from tests.training.tiny import STEPS, Model, TinyRecipe, TinyTask, batch_at, losses, run


def recipe(**fields: Any) -> TinyRecipe:
    defaults = {"device": "cpu", "intervals": Intervals(log=5, evaluate=20, sample=30, checkpoint=20)}
    return TinyRecipe.model_validate({**defaults, **fields})


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model" / "model.safetensors")


def test_a_run_learns_and_leaves_everything(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    outcome = run(directory, recipe(optimizer={"lr": 0.03}, steps=100, dropout=0))
    assert outcome.step == 100 and not outcome.stopped
    train = [line["loss"] for line in losses(directory) if line["kind"] == "train"]
    assert train[-1] < 0.3 * train[0]
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert {"recipe.yaml", "metrics.jsonl", "plots/loss.png", "samples/00000030.txt"} <= found
    assert "model/model.safetensors" in found
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == [
        "step-00000060", "step-00000080", "step-00000100",
    ]  # fmt: skip


def test_one_step_by_hand(tmp_path: Path) -> None:
    """Two micro-batches, mean of the losses, clipped to norm 0.1, one plain step of AdamW."""
    run(tmp_path / "run", recipe(steps=1, accumulation=2, clip=0.1, dropout=0, schedule={"warmup": 0}))
    torch.manual_seed(0)
    model = Model(0)
    groups = [{"params": [p for p in model.net.parameters() if (p.ndim > 1) == matrix], "weight_decay": decay}
              for matrix, decay in ((True, 0.04), (False, 0.0))]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95))
    for index in range(2):
        inputs, targets = batch_at(index, 16)
        (nn.functional.mse_loss(model.net(inputs), targets) / 2).backward()
    torch.nn.utils.clip_grad_norm_(model.net.parameters(), 0.1)
    optimizer.step()
    got = weights(tmp_path / "run")
    assert all(torch.allclose(got[f"net.{k}"], v, atol=1e-7) for k, v in model.net.state_dict().items())


@pytest.mark.parametrize("stop", [7, 20, 33])
def test_signal_stops_and_resume_continues_exactly(tmp_path: Path, stop: int) -> None:
    settings = recipe(adversarial=True, ema=0.9)
    run(tmp_path / "whole", settings)

    class Interrupted(TinyTask):
        def after_step(self, model: nn.Module, step: int) -> Any:
            if step == stop - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().after_step(model, step)

    directory = tmp_path / "run"
    prepare_directory(settings, directory, False)
    outcome = Trainer(Interrupted(settings), settings, directory).fit()
    assert (outcome.step, outcome.stopped) == (stop, "received SIGTERM")
    assert (directory / "model").is_dir()
    run(directory, settings, resume=True)
    assert losses(directory) == losses(tmp_path / "whole")
    pairs = zip(weights(directory).values(), weights(tmp_path / "whole").values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_how_often_it_looks_does_not_change_the_training(tmp_path: Path) -> None:
    run(tmp_path / "often", recipe(intervals=Intervals(log=30, evaluate=7, sample=1, checkpoint=3)))
    run(tmp_path / "never", recipe(intervals=Intervals(log=30, evaluate=0, sample=0, checkpoint=50)))
    train = [[x for x in losses(tmp_path / name) if x["kind"] == "train"] for name in ("often", "never")]
    assert train[0] == train[1]


def test_max_minutes_stops(tmp_path: Path) -> None:
    outcome = run(tmp_path / "run", recipe(pause=0.01, max_minutes=0.002))
    assert 0 < outcome.step < STEPS and outcome.stopped == "max_minutes is over"
    changed = recipe(pause=0.01, max_minutes=5, intervals=Intervals(log=5))
    assert run(tmp_path / "run", changed, resume=True).step == STEPS


def test_a_phase_trains_only_its_own(tmp_path: Path) -> None:
    run(tmp_path / "run", recipe(steps=3, adversarial=True))  # the critic sits out the first three steps
    torch.manual_seed(0)
    start = Model(0.1).state_dict()
    got = weights(tmp_path / "run")
    assert torch.equal(got["critic.weight"], start["critic.weight"])
    run(tmp_path / "more", recipe(steps=4, adversarial=True))
    assert not torch.equal(weights(tmp_path / "more")["critic.weight"], start["critic.weight"])


def test_what_no_phase_trains_takes_no_gradient(tmp_path: Path) -> None:
    settings = recipe(steps=5)
    trainer = Trainer(TinyTask(settings), settings, tmp_path)
    assert not trainer.model.critic.weight.requires_grad and trainer.model.net[0].weight.requires_grad


def test_average_is_exported(tmp_path: Path) -> None:
    run(tmp_path / "run", recipe(steps=1, ema=0.9, schedule={"warmup": 0}))
    run(tmp_path / "plain", recipe(steps=1, schedule={"warmup": 0}))
    torch.manual_seed(0)
    start, plain, got = Model(0.1).state_dict(), weights(tmp_path / "plain"), weights(tmp_path / "run")
    for name in start:  # the first update's decay is (1 + 0) / (10 + 0)
        if name.startswith("net."):
            assert torch.allclose(got[name], 0.1 * start[name] + 0.9 * plain[name], atol=1e-7), name


class Poisoned(TinyTask):
    """Its loss is not a number in the steps of ``bad``."""

    bad: range = range(5, 7)

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> Any:
        loss, metrics = super().loss(model, batch, step, phase)
        return (loss * torch.nan if step in self.bad else loss), metrics


def train(task: TinyTask, directory: Path) -> list[dict[str, Any]]:
    prepare_directory(task.recipe, directory, False)
    Trainer(task, task.recipe, directory).fit()
    return [line for line in losses(directory) if line["kind"] == "train"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path, precision: str) -> None:
    settings = recipe(precision=precision, steps=10, intervals=Intervals(log=1, evaluate=0, sample=0))
    lines = train(Poisoned(settings), tmp_path / "run")
    assert [line["skipped"] for line in lines] == [0] * 5 + [1, 1] + [0] * 3
    assert all(value.isfinite().all() for value in weights(tmp_path / "run").values())
    if precision == "fp16":
        scales = [line["loss_scale"] for line in lines]
        assert scales[5:7] == [2**16, 2**15]


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    task = Poisoned(recipe(steps=200))
    task.bad = range(200)
    with pytest.raises(CogViewError, match="not finite"):
        train(task, tmp_path / "run")


def test_bf16_trains(tmp_path: Path) -> None:
    lines = train(TinyTask(recipe(precision="bf16", optimizer={"lr": 0.03}, dropout=0)), tmp_path / "run")
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_init_takes_weights(tmp_path: Path) -> None:
    run(tmp_path / "first", recipe(steps=3))
    second = recipe(
        steps=1, seed=5, init=tmp_path / "first" / "model", schedule={"warmup": 0}, optimizer={"lr": 1e-9}
    )
    run(tmp_path / "second", second)
    a, b = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert torch.allclose(a["net.0.weight"], b["net.0.weight"], atol=1e-6)


def test_init_of_another_model_is_one_line(tmp_path: Path) -> None:
    run(tmp_path / "first", recipe(steps=1))
    with pytest.raises(CogViewError, match=r"the tensor bias is missing"):
        load_weights(nn.Linear(2, 2), tmp_path / "first" / "model")
    with pytest.raises(CogViewError, match=r"no model\.safetensors"):
        load_weights(nn.Linear(2, 2), tmp_path)


def test_damaged_newest_checkpoint_costs_only_its_steps(tmp_path: Path) -> None:
    settings, directory = recipe(), tmp_path / "run"
    run(tmp_path / "whole", settings)
    run(directory, settings)
    newest = directory / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    run(directory, settings, resume=True)
    assert losses(directory) == losses(tmp_path / "whole")
    assert "damaged" in (tmp_path / "said.txt").read_text()


@pytest.mark.parametrize("torn", ["", "\0\0\0\n", '{"kind": "train", "st'])
def test_metrics_are_one_curve_after_a_torn_line(tmp_path: Path, torn: str) -> None:
    settings, directory = recipe(), tmp_path / "run"
    run(directory, settings)
    before = losses(directory)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": STEPS + 1, "loss": 0.0}) + "\n" + torn)
    run(directory, settings, resume=True)
    assert losses(directory) == before


def test_activation_checkpointing_needs_a_switch(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="activation_checkpointing"):
        run(tmp_path / "run", recipe(activation_checkpointing=True))


def test_tensors_in_a_nested_batch_move() -> None:
    batch = {"a": [torch.ones(2)], "b": (torch.ones(1), "text"), "c": 3}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].is_meta and moved["b"][0].is_meta
    assert moved["b"][1] == "text" and moved["c"] == 3
