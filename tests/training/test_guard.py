"""Losses that run away: left out, rolled back, or an end of their own."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from cogview.cli.app import main
from cogview.errors import TrainingDiverged
from cogview.training.checkpoint.directory import list_checkpoints
from cogview.training.divergence import LossMonitor, bad_weight
from cogview.training.launch import prepare_directory
from cogview.training.recipe import Intervals
from cogview.training.trainer import Outcome, Trainer
from tests.training.tiny import TinyRecipe, TinyTask, losses


class Spiking(TinyTask):
    """Its batches of the numbers in ``bad`` have a loss ``times`` what it should be.

    ruined: from the first of them on every batch has, until the weights are put back.
    """

    spike = (2.0, 1.0)
    bad: tuple[int, ...] = ()
    times = 1e4
    ruins = False

    def __init__(self, recipe: TinyRecipe) -> None:
        super().__init__(recipe)
        self.used: list[int] = []

    def loader(self, state: dict[str, Any] | None, *, rank: int = 0, world: int = 1) -> Any:
        for batch, after in super().loader(state, rank=rank, world=world):
            yield (*batch, after["next"] - 1), after

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> Any:
        *pair, number = batch
        self.used.append(number)
        loss, metrics = super().loss(model, tuple(pair), step, phase)  # type: ignore[misc]
        if number in self.bad and self.ruins:
            model.seen += 1e6  # a weight of the checkpoint, read by nothing else
        ruined = self.ruins and float(model.seen) > 1e5
        return loss * (self.times if number in self.bad or ruined else 1.0), metrics

    def num_items(self, batch: Any) -> int:
        return len(batch[0])


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "pictures").mkdir()
    for number in range(8):
        Image.new("RGB", (72, 72), ("red", "blue")[number % 2]).save(folder / "pictures" / f"{number}.png")
        (folder / "pictures" / f"{number}.txt").write_text("a square")
    words = ["data", "build", str(folder / "pictures"), str(folder / "tokens")]
    assert main([*words, "--tokenizers", "pictogram"]) == 0
    return folder / "tokens"


def recipe(**fields: Any) -> TinyRecipe:
    defaults = {
        "device": "cpu", "dropout": 0.0, "steps": 60, "guard": {"patience": 6},
        "intervals": Intervals(log=1, evaluate=0, sample=0, checkpoint=10),
    }  # fmt: skip
    return TinyRecipe.model_validate({**defaults, **fields})


def run(task: TinyTask, directory: Path, resume: bool = False) -> Outcome:
    torch.set_num_threads(1)
    prepare_directory(task.recipe, directory, resume)
    return Trainer(task, task.recipe, directory).fit(resume)


def test_a_spike_is_left_out_and_named(tmp_path: Path) -> None:
    task = Spiking(recipe(steps=40))
    task.bad = (20, 33)
    run(task, tmp_path / "run")
    lines = losses(tmp_path / "run")
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [line["step"] for line in skipped] == [21, 34]
    assert all("the loss is" in line["why"] for line in skipped)
    assert [line["loader"] for line in skipped] == [{"next": 20}, {"next": 33}]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train if line["skipped"]] == [21, 34]


def test_weights_that_are_ruined_roll_back_and_other_data_come(tmp_path: Path) -> None:
    task = Spiking(recipe())
    task.bad, task.ruins = (25,), True
    assert run(task, tmp_path / "run").step == 60
    lines = losses(tmp_path / "run")
    [told] = [line for line in lines if line["kind"] == "rollback"]
    assert (told["step"], told["from"]) == (20, 31)  # the checkpoint before; after six in a row
    assert task.used == list(range(60 + 11))  # none comes twice: what led to it is passed over
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(1, 61))


def test_it_goes_no_further_back_than_it_may(tmp_path: Path) -> None:
    """Two rollbacks in vain, then the end: no model, the good checkpoint kept."""
    task = Spiking(recipe(keep=2))
    task.bad, task.ruins = tuple(range(25, 200)), True
    with pytest.raises(TrainingDiverged, match=r"step 2\d: .* 6 times in a row; rolled back 2 times in vain"):
        run(task, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()
    assert "step-00000020" in {path.name for path in list_checkpoints(tmp_path / "run" / "checkpoints")}


def test_a_stopped_run_goes_on_judging_by_the_same_losses(tmp_path: Path) -> None:
    """Stopped amid the bad losses, it rolls back where the whole run did."""

    class Stopping(Spiking):
        stop = -1

        def after_step(self, model: nn.Module, step: int) -> Any:
            if len(self.used) == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().after_step(model, step)

    def trained(name: str, stop: int = -1) -> Outcome:
        task = Stopping(recipe())
        task.bad, task.ruins, task.stop = (25,), True, stop
        return run(task, tmp_path / name, (tmp_path / name).exists())

    trained("whole")
    assert trained("cut", 28).step == 28
    trained("cut")
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_that_ends_amid_bad_losses_has_failed(tmp_path: Path) -> None:
    task = Spiking(recipe(guard={"patience": 50}))
    task.bad = tuple(range(52, 60))
    with pytest.raises(TrainingDiverged, match="the last 8 updates were skipped"):
        run(task, tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_a_loss_that_creeps_up_is_found_at_the_end(tmp_path: Path) -> None:
    class Creeping(TinyTask):
        spike = (2.0, 1.0)

        def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> Any:
            loss, metrics = super().loss(model, batch, step, phase)  # type: ignore[misc]
            return loss * 0 + 1.05**step, metrics

    task = Creeping(recipe(steps=80, optimizer={"lr": 1e-9}))
    with pytest.raises(TrainingDiverged, match=r"the loss rose from 1\.\d+ to 3\d"):
        run(task, tmp_path / "run")


@pytest.mark.parametrize("lr", [1e30, 1e6])
@pytest.mark.parametrize("steps", [12, 90])
def test_a_learning_rate_far_too_large_ends_with_its_own_code(
    lr: float, steps: int, tokens: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At commit a1c147c: "done", exit code 0, weights of inf."""
    asked = {
        "task": "transformer", "name": "wild", "data": str(tokens), "steps": steps, "batch_size": 4,
        "model": {"layers": 1, "hidden": 16, "heads": 2}, "schedule": {"warmup": 0}, "optimizer": {"lr": lr},
        "intervals": {"evaluate": 0, "sample": 0},
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(json.dumps(asked))
    code = main(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run"), "--set", "device=cpu"])
    assert code == 3 and not (tmp_path / "run" / "model").exists()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "lower optimizer.lr" in said[0]


def test_weights_are_looked_at_before_they_are_exported() -> None:
    model = nn.Linear(3, 2)
    assert bad_weight(model) is None
    for value in (math.nan, math.inf, 65505.0):  # float16 ends at 65504
        with torch.no_grad():
            model.weight[0, 1] = value
        assert bad_weight(model) == "weight"


def test_the_limit_by_hand() -> None:
    """Median 2, deviations 0, 0.1, 0.1: ten times 1.4826 * 0.1 is less than twice the median."""
    watch = LossMonitor(2.0, 1.0)
    assert watch.limit() == math.inf and not watch.is_good(math.nan)
    for step, loss in enumerate((1.9, 2.0, 2.1)):
        watch.accept(loss, step)
    assert watch.limit() == pytest.approx(6.0) and watch.is_good(5.9) and not watch.is_good(6.1)
    quiet = LossMonitor(2.0, 1.0)
    quiet.accept(0.01, 0)
    assert quiet.limit() == pytest.approx(1.01)  # a nat of room where little is left to learn
    wide = LossMonitor(0.1, 0.0)
    for step, loss in enumerate((1.0, 2.0, 3.0)):
        wide.accept(loss, step)
    assert wide.limit() == pytest.approx(2.0 + 10 * 1.4826)
    off = LossMonitor(0.0, 1.0)
    off.accept(1.0, 0)
    assert off.is_good(1e9) and not off.is_good(math.inf)
