"""Sweeps: every combination once, whoever works on them and however often it stops; a search; a table."""

import hashlib
import json
import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.training import registry
from cogview.training.metrics_file import MetricsFile
from cogview.training.trials import Axis, Sweep, best, field_paths, open_study, parse_axis, split
from tests.training.tiny import TinyRecipe

RECIPE = """
task: tiny
name: tiny
steps: 6
device: cpu
threads: 1
dropout: 0
schedule: {warmup: 0}
intervals: {log: 2, evaluate: 3, sample: 0, checkpoint: 2}
"""


@pytest.fixture(autouse=True)
def tiny_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TASKS, "tiny", "tests.training.tiny:TinyTask")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path / "tiny.yaml"


def sweep(recipe: Path, out: Path, *over: str, **more: Any) -> Sweep:
    return Sweep(recipe, [], over, out, say=lambda text: None, **more)


FIELDS = field_paths(TinyRecipe(optimizer={"kind": "adamw"}))  # type: ignore[arg-type]


def test_axes_are_lists_or_ranges() -> None:
    assert parse_axis("lr=1e-3,3e-4", FIELDS) == Axis("optimizer.lr", ("1e-3", "3e-4"))
    assert parse_axis("batch_size=4,8", FIELDS).path == "batch_size"
    assert parse_axis("x.y=[1, 2],[3]", FIELDS) == Axis("x.y", ("[1, 2]", "[3]"))
    assert parse_axis("lr=1e-4..1e-2", FIELDS) == Axis("optimizer.lr", (), 1e-4, 1e-2, False)
    assert parse_axis("lr=0.5..1.5", FIELDS) == Axis("optimizer.lr", (), 0.5, 1.5, False)
    assert parse_axis("batch_size=2..8", FIELDS) == Axis("batch_size", (), 2, 8, True)
    assert split("a,{b: 1, c: [2, 3]},d") == ["a", "{b: 1, c: [2, 3]}", "d"]


@pytest.mark.parametrize("text", ["lr", "lr=", "lr=1,1", "lr=1,,2", "lr=2..1", "lr=a..b"])
def test_a_wrong_axis_is_one_line(text: str) -> None:
    with pytest.raises(CogViewError, match=f"--over {text}"):
        parse_axis(text, FIELDS)


def test_a_last_part_that_is_not_unique_is_asked_for() -> None:
    with pytest.raises(CogViewError, match=r"may be a\.lr, b\.lr; give the full path"):
        parse_axis("lr=1,2", ["a.lr", "b.lr"])


def test_every_combination_is_run_and_the_best_comes_first(recipe: Path, tmp_path: Path) -> None:
    job = sweep(recipe, tmp_path / "out", "lr=0.0001,0.05", "dropout=0,0.01")
    assert job.run()
    found = job.results()
    combinations = {
        (f"optimizer.lr={lr}", f"dropout={d}") for lr in ("0.0001", "0.05") for d in ("0", "0.01")
    }
    assert {result.overrides for result in found} == combinations
    values = [result.value for result in found if result.value is not None]
    assert values == sorted(values) and len(values) == 4
    assert all("optimizer.lr=0.05" in result.overrides for result in found[:2])  # six steps: the larger rate
    for result in found:
        lines = MetricsFile(job.directory(result.overrides) / "metrics.jsonl").lines()
        assert result.value == min(line["loss"] for line in lines if line["kind"] == "evaluate")
    files = (tmp_path / "out" / "trials").rglob("*")
    times = {path: path.stat().st_mtime_ns for path in files if path.is_file()}
    assert sweep(recipe, tmp_path / "out", "lr=0.0001,0.05", "dropout=0,0.01").run()
    assert {path: path.stat().st_mtime_ns for path in times} == times  # nothing is done twice


def test_a_wrong_value_is_found_before_anything_is_trained(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="batch_size"):
        sweep(recipe, tmp_path / "out", "batch_size=4,none").run()
    assert not (tmp_path / "out").exists()
    with pytest.raises(CogViewError, match="appears twice"):
        sweep(recipe, tmp_path / "out", "lr=1,2", "optimizer.lr=3")
    with pytest.raises(CogViewError, match="--search 20"):
        sweep(recipe, tmp_path / "out", "lr=0.1..0.2").run()


def test_a_trial_that_fails_is_a_line_of_the_table(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`activation_checkpointing` needs a model that has the switch; the tiny one has none."""
    over = "activation_checkpointing=true,false"
    command = ["sweep", str(recipe), "--over", over, "--out", str(tmp_path / "out")]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [result["state"] for result in found] == ["done", "failed"]
    assert "does not support it" in found[1]["error"]
    assert main([*command, "--table"]) == 0
    assert "activation_checkpointing" in capsys.readouterr().out


def test_the_best_value_is_that_of_the_evaluations(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append("train", 5, {"loss": 0.1, "accuracy": 0.3})
    file.append("evaluate", 5, {"loss": 3.0})
    file.append("evaluate", 10, {"loss": 2.0})
    file.append("evaluate", 15, {"loss": float("nan")})
    assert best(file.path, "loss") == (2.0, 10)
    assert best(file.path, "loss", largest=True) == (3.0, 5)
    assert best(file.path, "accuracy") == (0.3, 5)
    assert best(file.path, "other") == (None, 0)


def work(recipe: Path, out: Path) -> None:
    """A machine that helps, in a process of its own."""
    torch.set_num_threads(1)
    registry.TASKS["tiny"] = "tests.training.tiny:TinyTask"
    sweep(recipe, out, "seed=1,2,3", "pause=0.01").run()


def test_two_processes_share_the_trials_and_one_is_killed(recipe: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of a trial: another process takes it over and resumes it."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "tests.training.test_sweep"])
    out = tmp_path / "out"
    killed, other = (processes.Process(target=work, args=(recipe, out)) for _ in range(2))
    killed.start()
    while not list(out.glob("trials/*/checkpoints/step-*")):
        time.sleep(0.01)
    killed.kill()
    killed.join()
    other.start()
    work(recipe, out)
    other.join()
    assert other.exitcode == 0
    found = sweep(recipe, out, "seed=1,2,3", "pause=0.01").results()
    assert sorted(result.overrides[0] for result in found) == [f"seed={seed}" for seed in range(1, 4)]
    assert all(result.state == "done" for result in found)
    for result in found:  # steps 2, 4 and 6 once each, whoever was killed
        lines = MetricsFile(
            sweep(recipe, out, "seed=1", "pause=0").directory(result.overrides) / "metrics.jsonl"
        )
        assert [line["step"] for line in lines.lines() if line["kind"] == "train"] == [2, 4, 6]


def test_a_trial_that_another_process_works_on_is_left_to_it(recipe: Path, tmp_path: Path) -> None:
    job = sweep(recipe, tmp_path / "out", "seed=1,2")
    busy = job.directory(["seed=1"])
    busy.parent.mkdir(parents=True)
    with FileLock(busy.with_name(f"{busy.name}.lock")):
        assert job.run()
    assert [result.overrides for result in job.results()] == [("seed=2",)]
    assert job.run()
    assert len(job.results()) == 2


def test_a_grid_may_grow(recipe: Path, tmp_path: Path) -> None:
    """Another list of values is another grid; what is in both is run once."""
    assert sweep(recipe, tmp_path / "out", "seed=1,2").run()
    before = {r.overrides: r.seconds for r in sweep(recipe, tmp_path / "out", "seed=1,2").results()}
    assert sweep(recipe, tmp_path / "out", "seed=2,3,1").run()
    after = {r.overrides: r.seconds for r in sweep(recipe, tmp_path / "out", "seed=1,2").results()}
    assert len(after) == 3 and before.items() <= after.items()


def test_a_trial_that_was_killed_before_it_chose_is_run(recipe: Path, tmp_path: Path) -> None:
    job = sweep(recipe, tmp_path / "out", "seed=1,2")
    mark = hashlib.sha256("\n".join(map(repr, job.grid())).encode()).hexdigest()[:12]
    study = open_study(tmp_path / "out" / "optuna.log", False, 0, f"grid-{mark}")
    study.enqueue_trial({"seed": "1"})
    study.ask()  # and nothing more
    assert job.run()
    assert sorted(result.overrides for result in job.results()) == [("seed=1",), ("seed=2",)]


def test_optuna_searches_and_goes_on(recipe: Path, tmp_path: Path) -> None:
    over = ("lr=1e-5..1e-1", "batch_size=2..8", "schedule.kind=constant,cosine")
    assert sweep(recipe, tmp_path / "out", *over).search(2)
    first = sweep(recipe, tmp_path / "out", *over).results()
    assert len(first) == 2
    assert sweep(recipe, tmp_path / "out", *over).search(3)
    found = sweep(recipe, tmp_path / "out", *over).results()
    assert len(found) == 3 and {r.overrides for r in first} <= {r.overrides for r in found}
    for result in found:
        given = dict(text.split("=") for text in result.overrides)
        assert 1e-5 <= float(given["optimizer.lr"]) <= 1e-1 and 2 <= int(given["batch_size"]) <= 8
        assert given["schedule.kind"] in ("constant", "cosine")
