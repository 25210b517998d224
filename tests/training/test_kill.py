"""kill -9 at random moments: the curve is the uninterrupted run's, bit for bit."""

import multiprocessing
import random
import time
from pathlib import Path

from cogview.training.checkpoint.directory import list_checkpoints
from cogview.training.recipe import Intervals
from tests.training.tiny import TinyRecipe, losses, run

RECIPE = TinyRecipe(
    adversarial=True,
    ema=0.9,
    accumulation=2,
    device="cpu",
    threads=1,
    pause=0.004,
    intervals=Intervals(log=3, evaluate=10, sample=0, checkpoint=4),
)
KILLS = 3


def test_killed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(
        ["torch", "torch._dynamo", "safetensors.torch", "pydantic", "rich.progress"]
    )
    run(tmp_path / "whole", RECIPE)
    chance, directory, kills = random.Random(1), tmp_path / "killed", 0
    while kills < KILLS:
        resume = (directory / "recipe.yaml").exists()
        process = processes.Process(target=run, args=(directory, RECIPE, resume))
        process.start()
        while process.is_alive() and _newest(directory) < 12 * (kills + 1):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.06))
        assert process.is_alive(), f"it ended before kill {kills + 1}, exit code {process.exitcode}"
        process.kill()
        process.join()
        kills += 1
    run(directory, RECIPE, resume=True)
    assert losses(directory) == losses(tmp_path / "whole")
    assert losses(directory)[-1]["step"] == RECIPE.steps


def _newest(directory: Path) -> int:
    return max((int(path.name[5:]) for path in list_checkpoints(directory / "checkpoints")), default=0)
