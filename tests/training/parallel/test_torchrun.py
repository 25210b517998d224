"""The real thing: ``torchrun`` starts ``cogview train``, and starts it anew when a rank has died."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from cogview.config import dump_yaml
from tests.training.parallel.world import STEPS, curve, recipe, wait_for

ROOT = Path(__file__).parents[3]


def children(process: subprocess.Popen[str]) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_a_killed_rank_is_started_again(data: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    given = recipe(
        data,
        parallel={"kind": "fsdp"},
        intervals={"log": 1, "evaluate": 10, "sample": 0, "checkpoint": 3},
    )
    (tmp_path / "recipe.yaml").write_text(dump_yaml(given))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", "1", "-m", "cogview.cli", "train", str(tmp_path / "recipe.yaml"),
        "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for(tmp_path / "run", 8)
    os.kill(children(process)[-1], signal.SIGKILL)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert said.count("resuming at step") == 1 and said.count(f"done: {STEPS} steps") == 1
    np.testing.assert_allclose(curve(tmp_path / "run"), curve(alone["plain"]), rtol=0, atol=1e-4)
