"""A checkpoint of any number of ranks goes on on any other; signals, kills and damage on several ranks."""

import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogview.training.checkpoint.directory import list_checkpoints
from tests.training.parallel.world import SAVED, curve, cut_back, launch, recipe, run, train, wait_for

TOLERANCE = 1e-4
FSDP = {"kind": "fsdp"}


@pytest.mark.parametrize(
    ("before", "world", "parallel"),
    [
        ("zero 3 on 2", 1, {}),
        ("zero 3 on 2", 4, {"kind": "hsdp", "replicas": 2}),
        ("zero 2 on 4", 2, {"kind": "ddp"}),
        ("ddp on 2", 1, {}),
        ("plain", 2, FSDP),
        ("zero 3 with Muon on 2", 1, {}),
        ("tensor on 2", 2, {"tensor": 2}),
        ("tensor with zero 3 on 4", 1, {}),
        ("plain", 4, {"kind": "fsdp", "tensor": 2}),
    ],
)
def test_goes_on_with_other_ranks(
    before: str,
    world: int,
    parallel: dict[str, Any],
    data: Path,
    alone: dict[str, Path],
    together: dict[str, Path],
    tmp_path: Path,
) -> None:
    """Weights, optimizer, average, scheduler and place in the data: the curve is the uninterrupted one."""
    from tests.training.parallel.conftest import RUNS, SETTINGS, tolerance

    settings = RUNS[before][1] if before in RUNS else before
    directory = cut_back({**alone, **together}[before], tmp_path / "run")
    given = recipe(data, parallel=parallel, **SETTINGS[settings])
    if world == 1:
        train(given, directory)
    else:
        assert run(world, (given, directory)) == [""] * world
    assert f"resuming at step {SAVED}" in (tmp_path / "said-0.txt").read_text()
    np.testing.assert_allclose(curve(directory), curve(alone[settings]), rtol=0, atol=tolerance(settings))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_to_one_rank_stops_all(
    name: str, data: Path, alone: dict[str, Path], tmp_path: Path
) -> None:
    directory, given = tmp_path / "run", recipe(data, parallel=FSDP, async_checkpoints=True)
    processes, queue = launch(2, (given, directory))
    wait_for(directory, 5)
    os.kill(processes[1].pid or 0, getattr(signal, name))
    assert sorted(queue.get(timeout=900) for _ in processes) == [(0, ""), (1, "")]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (path,) = list_checkpoints(directory / "checkpoints")[-1:]
    assert int(path.name[5:]) == len(curve(directory)) < given.steps
    train(given, directory)
    np.testing.assert_allclose(curve(directory), curve(alone["plain"]), rtol=0, atol=TOLERANCE)


def test_killed_ranks_go_on(data: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    """kill -9 of one rank, then of the other as torchrun does; while training and while saving."""
    intervals = {"log": 1, "evaluate": 0, "sample": 0, "checkpoint": 2}
    given = recipe(data, parallel=FSDP, intervals=intervals, async_checkpoints=True)
    directory, chance, kills = tmp_path / "run", random.Random(3), 0
    while kills < 3:
        processes, _ = launch(2, (given, directory))
        wait_for(directory, 4 * (kills + 1))
        time.sleep(chance.uniform(0, 0.05))
        first = chance.randrange(2)
        for process in (processes[first], processes[1 - first]):
            assert process.is_alive()
            process.kill()
            process.join()
        kills += 1
    assert run(2, (given, directory)) == ["", ""]
    np.testing.assert_allclose(curve(directory), curve(alone["plain"]), rtol=0, atol=TOLERANCE)


def test_a_truncated_shard_is_named_and_the_one_before_used(
    data: Path, alone: dict[str, Path], together: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(together["zero 3 on 2"], tmp_path / "run")
    for path in list_checkpoints(tmp_path / "run" / "checkpoints")[1:]:
        shard = sorted(path.glob("shard-00002-*.safetensors"))[0]
        shard.write_bytes(shard.read_bytes()[:-100])
    given = recipe(data, parallel=FSDP)
    assert run(2, (given, tmp_path / "run")) == ["", ""]
    said = (tmp_path / "said-0.txt").read_text()
    assert "shard-00002" in said and f"resuming at step {SAVED}" in said
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["plain"]), rtol=0, atol=TOLERANCE)
