"""`cogview train --processes`: the same curve, one message, signals passed on."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from cogview.cli.app import main
from cogview.training.processes import run_processes
from tests.training.parallel.world import STEPS, curve, recipe

LIMIT = 240  # seconds


def command(data: Path, place: Path, *more: str, **fields: object) -> list[str]:
    given = json.loads(recipe(data, **fields).model_dump_json())
    given.pop("parallel")
    (place / "recipe.yaml").write_text(yaml.safe_dump(given), "utf-8")
    words = ["train", str(place / "recipe.yaml"), "--out", str(place / "run"), "--processes", "2", *more]
    return [sys.executable, "-m", "cogview.cli", *words]


def test_two_processes_follow_the_curve_of_one(data: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    done = subprocess.run(command(data, tmp_path), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"done: {STEPS} steps") == 1
    for kind in ("train", "evaluate"):
        np.testing.assert_allclose(
            curve(tmp_path / "run", kind), curve(alone["plain"], kind), rtol=0, atol=1e-4
        )


def test_a_mistake_is_said_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some are found before the processes start, others by them: too few sequences for two."""
    with monkeypatch.context() as patch:
        patch.setattr("cogview.training.processes.subprocess.Popen", None)  # nothing is started
        assert main(command(data, tmp_path, "--set", "nonsense=1")[3:]) == 2
    said = capsys.readouterr().err
    assert said.count("error:") == 1 and "nonsense" in said

    few = command(data, tmp_path, "--set", "batch_size=1")
    found = subprocess.run(few, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert found.returncode == 2
    assert found.stderr.count("error:") == 1 and "batch_size: 1 sequences" in found.stderr, found.stderr


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    started = subprocess.Popen(command(data, tmp_path, steps=100_000), stderr=subprocess.PIPE, text=True)
    metrics, end = tmp_path / "run" / "metrics.jsonl", time.monotonic() + LIMIT
    while not metrics.exists() and time.monotonic() < end:
        time.sleep(0.1)
    started.send_signal(signal.SIGINT)
    _, said = started.communicate(timeout=LIMIT)
    assert started.returncode == 0, said
    stopped = re.search(r"received SIGINT: stopped after step (\d+); go on with: cogview (train .*)", said)
    assert stopped and "--processes 2" in stopped[2] and stopped[2].endswith("--resume")
    assert any((tmp_path / "run" / "checkpoints").glob(f"*{stopped[1]}"))


@pytest.mark.parametrize("ending", ["sys.exit(3)", "os.kill(os.getpid(), 9)"], ids=["error", "killed"])
def test_where_one_fails_all_end(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others, which would wait for it for a minute, are ended; the code is the first one's."""
    monkeypatch.setattr("cogview.training.processes.GRACE", 0.5)
    script = f"import os, sys, time; os.environ['RANK'] == '1' and {ending}; time.sleep(60)"
    began = time.monotonic()
    assert run_processes([sys.executable, "-c", script], 3) == (3 if "exit" in ending else 137)
    assert time.monotonic() - began < 30


def test_each_knows_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "MASTER_PORT")
    script = (
        "import os, pathlib, sys; "
        f"pathlib.Path(sys.argv[1], os.environ['RANK']).write_text(' '.join(os.environ[n] for n in {names}))"
    )
    assert run_processes([sys.executable, "-c", script, str(tmp_path)], 3) == 0
    told = [(tmp_path / str(rank)).read_text().split() for rank in range(3)]
    assert [line[:4] for line in told] == [[str(rank), str(rank), "3", "2"] for rank in range(3)]
    assert len({line[4] for line in told}) == 1
