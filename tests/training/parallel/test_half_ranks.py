"""All-fp16 training (O2) on two ranks: the curve of one process, checkpoints that fit any number of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.training.metrics_file import MetricsFile
from cogview.training.parallel import Parallel
from cogview.training.recipe import Recipe
from tests.training.parallel.world import curve, recipe, run, train

STEPS, SAVED, ROUNDING = 12, 6, 5e-3  # nats, in fp16; summed in another order
HALF: dict[str, Any] = {
    "precision": "fp16-o2", "steps": STEPS, "ema": 0.9,
    "loss_scaler": {"scale": 4096.0},
    "intervals": {"log": 1, "evaluate": STEPS, "sample": 0, "checkpoint": SAVED},
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"}, "zero 3": {"kind": "fsdp"}, "tensor": {"tensor": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("half")
    train(recipe(data, **HALF), directory / "alone")
    jobs = [(recipe(data, parallel=kind, **HALF), directory / name) for name, kind in RUNS.items()]
    assert run(2, *jobs) == ["", ""]
    return directory


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_follow_the_curve_of_one(name: str, runs: Path) -> None:
    expected = curve(runs / "alone")
    assert len(expected) == STEPS and expected[-1] < 0.95 * expected[0]
    np.testing.assert_allclose(curve(runs / name), expected, rtol=0, atol=ROUNDING)
    scales = [
        [line["loss_scale"] for line in MetricsFile(runs / who / "metrics.jsonl").lines() if "lr" in line]
        for who in ("alone", name)
    ]
    assert scales[0] == scales[1]


def test_what_two_ranks_saved_one_goes_on_with(data: Path, runs: Path) -> None:
    """From half way, of masters sharded by rows: in all-fp16 again, and so on two ranks from there on."""
    from tests.training.parallel.world import cut_back

    directory = cut_back(runs / "zero 3", runs / "again", step=SAVED)
    train(recipe(data, **HALF), directory)
    np.testing.assert_allclose(curve(directory), curve(runs / "alone"), rtol=0, atol=ROUNDING)


def _deepspeed_on_a_cpu(given: Recipe, directory: Path) -> object:
    """A rank's work where DeepSpeed is made to believe that this CPU multiplies fp16 fast."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True
    return train(given, directory)


@pytest.mark.parametrize("zero", [1, 3])  # 2 below
def test_deepspeed(zero: int, data: Path, runs: Path, tmp_path: Path) -> None:
    """Its own fp16 with our loss scale; stopped half way it goes on from its fp32 masters."""
    pytest.importorskip("deepspeed")
    from tests.training.parallel.world import cut_back

    fields = {name: value for name, value in HALF.items() if name != "ema"}
    given = recipe(data, parallel={"kind": "deepspeed", "zero": zero}, **fields)
    assert run(2, (given, tmp_path / "run"), work=_deepspeed_on_a_cpu) == ["", ""]
    again = cut_back(tmp_path / "run", tmp_path / "again", step=SAVED)
    assert run(2, (given, again), work=_deepspeed_on_a_cpu) == ["", ""]
    for directory in (tmp_path / "run", again):
        np.testing.assert_allclose(curve(directory), curve(runs / "alone"), rtol=0, atol=ROUNDING)


def test_deepspeed_leaves_an_overflow_out(data: Path, tmp_path: Path) -> None:
    """A scale of 2 ** 24 falls until gradients are finite, as on one process but for one halving at most."""
    pytest.importorskip("deepspeed")
    fields = {**HALF, "ema": None, "steps": 16, "loss_scaler": {"scale": 2.0**24, "patience": 1}}
    given = recipe(data, parallel={"kind": "deepspeed", "zero": 2}, **fields)
    assert run(2, (given, tmp_path / "many"), work=_deepspeed_on_a_cpu) == ["", ""]
    train(recipe(data, **fields), tmp_path / "alone")
    skipped = []
    for name in ("alone", "many"):
        lines = [line for line in MetricsFile(tmp_path / name / "metrics.jsonl").lines() if "lr" in line]
        number = int(sum(line["skipped"] for line in lines))
        assert [line["skipped"] for line in lines] == [1.0] * number + [0.0] * (16 - number)
        assert lines[-1]["loss_scale"] == 2.0 ** (24 - number)
        assert lines[-1]["loss"] < lines[0]["loss"]
        skipped.append(number)
    assert skipped[0] > 3 and abs(skipped[0] - skipped[1]) <= 1


def test_deepspeed_refuses_a_cpu_without_fp16(data: Path, tmp_path: Path) -> None:
    deepspeed = pytest.importorskip("deepspeed")
    if deepspeed.get_accelerator().is_fp16_supported():
        pytest.skip("this CPU has fp16 instructions")
    fields = {**HALF, "ema": None}
    said = run(2, (recipe(data, parallel={"kind": "deepspeed"}, **fields), tmp_path / "run"))
    assert all("DeepSpeed has no fp16-o2 on this device" in line for line in said)


def test_zero_1_is_deepspeeds() -> None:
    assert Parallel(kind="deepspeed", zero=1).zero == 1
    with pytest.raises(CogViewError, match="zero 1 is for deepspeed"):
        validate(Parallel, {"kind": "fsdp", "zero": 1}, "test")
