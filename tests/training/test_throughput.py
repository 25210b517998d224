"""Speed, utilisation and stalls against closed forms; what was left out is named; trackers get every line."""

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.precision import LossScaler
from cogview.training.recipe import Intervals
from cogview.training.task import Metrics
from cogview.training.throughput import BatchCost, Throughput, matrix_rate, transformer_cost
from cogview.training.trackers import TrackerGroup, check_trackers
from cogview.training.trainer import Trainer
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from tests.training.tiny import TinyRecipe, TinyTask, run


def test_the_work_is_what_pytorch_counts() -> None:
    """Against torch's own counter: forward and backward of the blocks and of the output matrix.

    Attention as written computes all scores, of which a causal model needs half.
    """
    from torch.utils.flop_counter import FlopCounterMode

    config = TransformerConfig(
        layers=2, hidden=32, heads=2, vocab_size=96, max_positions=24, numerics="written"
    )
    model = Transformer(config)
    batch, length = 3, 24
    with FlopCounterMode(display=False) as counter:
        hidden = model(torch.randint(96, (batch, length)), torch.arange(length).expand(batch, -1))
        model.logits(hidden).sum().backward()
    found = transformer_cost(config, [length] * batch, 2.0 * config.hidden * batch * length * 96)
    causal_half = 3 * 2.0 * config.layers * config.hidden * batch * length**2
    assert found.tokens == batch * length
    assert found.operations + causal_half == pytest.approx(counter.get_total_flops(), rel=1e-6)


class Counted:
    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost:
        return BatchCost(10, 1e6)


def test_measuring_the_machine_draws_no_random_numbers() -> None:
    """It happens once a process: a resumed run would draw another dropout than the uninterrupted one."""
    before = torch.get_rng_state()
    assert matrix_rate(torch.device("cpu"), seconds=0.001) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_waiting_is_told_from_working() -> None:
    def slow() -> Iterator[tuple[int, int]]:
        for number in range(3):
            time.sleep(0.02)
            yield number, number

    meter, batches = Throughput(Counted(), nn.Linear(1, 1), torch.device("cpu"), torch.float32), slow()
    for _ in range(3):
        meter.wait(batches)
    line = meter.line(0.6)
    assert line["tokens_per_second"] == 50.0 and line["memory"] > 1 << 20
    assert 0.06 <= line["stalls"] * 0.6 < 0.6
    assert line["utilisation"] == pytest.approx(3e6 / 0.6 / (meter._rate or 0), abs=1e-4)
    assert meter.line(1.0) == {"stalls": 0.0, "memory": pytest.approx(line["memory"], rel=0.5)}
    assert matrix_rate(torch.device("cpu"), seconds=0.01) > 1e6


class Overflowing(TinyTask):
    """Its batches 3 and 7 give a loss that is not finite; it names a batch by its number."""

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        found = super().loss(model, batch, step, phase)
        assert found is not None
        return (found[0] * torch.inf, found[1]) if step in (3, 7) else found

    def sample_keys(self, state: dict[str, Any] | None, batches: int) -> list[str]:
        first = state["next"] if state else 0
        return [f"batch {number}" for number in range(first, first + batches)]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_updates_left_out_are_counted_and_their_batches_named(tmp_path: Path, precision: str) -> None:
    recipe = TinyRecipe.model_validate(
        {"steps": 10, "device": "cpu", "precision": precision, "accumulation": 2,
         "intervals": Intervals(log=5, evaluate=0, sample=0, checkpoint=5),
         **({"loss_scaler": LossScaler(scale=256.0, patience=1)} if precision == "fp16" else {})}
    )  # fmt: skip
    prepare_directory(recipe, tmp_path, False)
    Trainer(Overflowing(recipe), recipe, tmp_path).fit()
    lines = MetricsFile(tmp_path / "metrics.jsonl").lines()
    skipped = [line for line in lines if line["kind"] == "skipped"]
    assert [(line["step"], line["keys"]) for line in skipped] == [
        (4, ["batch 6", "batch 7"]), (8, ["batch 14", "batch 15"]),
    ]  # fmt: skip
    assert skipped[0]["loader"] == {"next": 6}
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["skipped"] for line in train] == [0.2, 0.2]
    if precision == "fp16":
        assert LossScaler(scale=256.0, patience=1).update(True).update(True).scale == 64.0


# ---------------------------------------------------------------------------------------------- trackers


def events(directory: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(directory / "tensorboard"))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_gets_every_line_and_a_resumed_run_one_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    recipe = TinyRecipe.model_validate(
        {"steps": 9, "device": "cpu", "trackers": ["tensorboard"],
         "intervals": Intervals(log=1, evaluate=3, sample=0, checkpoint=4)}
    )  # fmt: skip

    class Dies(TinyTask):
        def after_step(self, model: nn.Module, step: int) -> Metrics:
            if step == 6:
                raise RuntimeError("the machine dies")
            return super().after_step(model, step)

    directory = tmp_path / "run"
    prepare_directory(recipe, directory, False)
    with pytest.raises(RuntimeError):
        Trainer(Dies(recipe), recipe, directory).fit()
    run(directory, recipe, resume=True)
    lines = MetricsFile(directory / "metrics.jsonl").lines()
    found = events(directory)
    for kind in ("train", "evaluate"):
        expected = [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]
        assert [step for step, _ in found[f"{kind}/loss"]] == [step for step, _ in expected]
        np.testing.assert_allclose([v for _, v in found[f"{kind}/loss"]], [v for _, v in expected], rtol=1e-6)


def test_sample_pictures_follow(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (4, 4), "red").save(tmp_path / "samples" / "samples-00000001.png")
    followers = TrackerGroup(["tensorboard"], tmp_path, {})  # what was there before is not told again
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "samples" / "samples-00000005.png")
    followers.line("train", 7, {"loss": 1.0, "keys": ["a"], "nothing": None})
    followers.line("train", 8, {"loss": 1.0})
    followers.close()
    found = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Images("samples")] == [5]


def test_wandb_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    fields = {"steps": 3, "device": "cpu", "trackers": ["wandb"], "intervals": {"log": 1, "evaluate": 2}}
    run(tmp_path / "run", TinyRecipe.model_validate(fields))
    (path,) = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    records = list(wandb_records(path.read_bytes()))
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "evaluate", "train", "evaluate"]
    for row, line in zip(rows, lines, strict=True):
        kind = line.pop("kind")
        assert row["step"] == line.pop("step")
        numbers = {f"{kind}/{key}": value for key, value in line.items() if isinstance(value, int | float)}
        assert {key: row[key] for key in numbers} == pytest.approx(numbers)
    (config,) = ({x.key: x.value_json for x in r.run.config.update} for r in records if r.HasField("run"))
    assert json.loads(config["steps"]) == 3


def wandb_records(data: bytes) -> Iterator[Any]:
    """What a ``.wandb`` file holds: LevelDB's log of blocks of 32 KiB after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    assert data[:4] == b":W&B"
    place, held = 7, b""
    while place + 7 <= len(data):
        if (left := -place % 32768) and left < 7:
            place += left
        _, size, part = struct.unpack("<IHB", data[place : place + 7])
        held += data[place + 7 : place + 7 + size]
        place += 7 + size
        if part in (1, 4):  # whole, or the last piece
            record = wandb_internal_pb2.Record()
            record.ParseFromString(held)
            yield record
            held = b""


def test_a_tracker_that_is_not_installed_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("cogview.training.trackers.find_spec", lambda name: None)
    with pytest.raises(CogViewError, match=r"pip install 'cogview\[tensorboard\]'"):
        check_trackers(["tensorboard"])
    recipe = TinyRecipe.model_validate({"steps": 2, "device": "cpu"})
    with pytest.raises(ValueError, match="trackers"):
        TinyRecipe.model_validate({"steps": 2, "trackers": ["paper"]})
    run(tmp_path / "run", recipe)
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["kind"] in (
        "train",
        "evaluate",
    )
