"""Several ranks on this machine: forked from a process that has everything imported, meeting over gloo."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import list_checkpoints
from cogview.training.launch import begin, join_ranks
from cogview.training.metrics_file import MetricsFile
from cogview.training.recipe import Recipe
from cogview.training.registry import task_class
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Outcome, Trainer

Fields = dict[str, Any]
Work = Callable[[Recipe, Path], object]
SPAWN = multiprocessing.get_context("forkserver")
SPAWN.set_forkserver_preload(
    ["torch", "torch._dynamo", "torch.distributed.fsdp", "tests.training.parallel.world"]
)
STEPS, SAVED = 20, 8
TRIES = 3


def recipe(data: Path, **fields: Any) -> TransformerRecipe:
    """20 updates of a model with two layers; 48 items in batches of 10, so that the last ones are smaller."""
    defaults: Fields = {
        "task": "transformer", "name": "tiny", "data": str(data),
        "model": {"layers": 2, "hidden": 32, "heads": 2}, "format": {"text_slots": 6},
        "steps": STEPS, "batch_size": 10, "optimizer": {"lr": 0.005}, "device": "cpu", "threads": 1,
        "intervals": {"log": 1, "evaluate": STEPS // 2, "sample": 0, "checkpoint": SAVED},
        "validation": {"items": 16},
    }  # fmt: skip
    return validate(TransformerRecipe, {**defaults, **fields}, "test")


def train(given: Recipe, directory: Path, auto: bool = True) -> Outcome:
    """What a rank does, as ``cogview train --auto-resume``."""
    torch.set_num_threads(1)
    task = task_class(given.task)(given)
    ranks = join_ranks(task, given)
    resume = ranks.on_first(lambda: begin(given, directory, False, auto))
    with (directory.parent / f"said-{ranks.rank}.txt").open("a") as said:
        return Trainer(task, given, directory, Console(file=said), ranks).fit(resume)


def _rank(
    rank: int, world: int, port: int, jobs: Sequence[tuple[Recipe, Path]], queue: Any, work: Work
) -> None:
    facts = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    os.environ.update({name: str(value) for name, value in facts.items()})
    said = ""
    for number, (given, directory) in enumerate(jobs):
        os.environ["MASTER_PORT"] = str(port + number)
        try:
            work(given, directory)
        except CogViewError as error:
            said = f"{type(error).__name__}: {error}"
        except BaseException:
            said = traceback.format_exc()
    queue.put((rank, said))


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def launch(world: int, *jobs: tuple[Recipe, Path], work: Work = train) -> tuple[list[BaseProcess], Any]:
    """Start the ranks on their jobs, one after the other; ``work`` is what a rank does."""
    queue = SPAWN.Queue()
    port = free_port()
    processes: list[BaseProcess] = [
        SPAWN.Process(target=_rank, args=(rank, world, port, jobs, queue, work), daemon=True)
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes, queue


def run(world: int, *jobs: tuple[Recipe, Path], limit: float = 600, work: Work = train) -> list[str]:
    """Train (or ``work``) on so many ranks; what went wrong on each ("": nothing).

    Gloo's threads sometimes wait for the interpreter, and it for them, when a group is taken down; ranks that
    hang so are told of as a warning, and all start once more from what was there before.
    """
    with TemporaryDirectory() as before:
        for number, (_, directory) in enumerate(jobs):
            if directory.exists():
                shutil.copytree(directory, Path(before) / str(number))
        for _ in range(TRIES - 1):
            try:
                return _once(world, jobs, limit, work)
            except TimeoutError as hung:
                warnings.warn(f"{hung}; all start again", stacklevel=2)
            for number, (_, directory) in enumerate(jobs):
                shutil.rmtree(directory, ignore_errors=True)
                if (Path(before) / str(number)).exists():
                    shutil.copytree(Path(before) / str(number), directory)
        return _once(world, jobs, limit, work)


def _once(world: int, jobs: Sequence[tuple[Recipe, Path]], limit: float, work: Work) -> list[str]:
    processes, queue = launch(world, *jobs, work=work)
    told: dict[int, str] = {}
    end, silent = time.monotonic() + limit, 0
    try:
        while len(told) < world:
            try:
                rank, said = queue.get(timeout=1)
                told[rank], silent = said, 0
            except Empty:
                silent += 1
            gone = {
                r: p.exitcode for r, p in enumerate(processes) if r not in told and p.exitcode is not None
            }
            assert not gone or silent < 2, f"ranks ended without a word: {gone}; the others: {told}"
            if time.monotonic() > end:
                hung = [p for rank, p in enumerate(processes) if rank not in told]
                raise TimeoutError(
                    f"{len(hung)} of {world} ranks hung for {limit} s; the others: {told}{stacks(hung)}"
                )
    finally:
        if len(told) < world:
            for process in processes:
                process.kill()
    for process in processes:
        process.join(10)
        process.kill()
    return [told[rank] for rank in range(world)]


def stacks(processes: Sequence[BaseProcess]) -> str:
    """What processes are at, those of C too, where py-spy is installed."""
    if shutil.which("py-spy") is None:
        return ""
    asked = ["py-spy", "dump", "--native", "--pid"]
    found = [
        subprocess.run([*asked, str(p.pid)], check=False, capture_output=True, text=True) for p in processes
    ]
    return "".join(f"\n{dump.stdout or dump.stderr}" for dump in found)


def curve(directory: Path, kind: str = "train") -> list[float]:
    """The losses of a run, every step."""
    lines = MetricsFile(directory / "metrics.jsonl").lines()
    return [line["loss"] for line in lines if line["kind"] == kind]


def cut_back(run_directory: Path, to: Path, step: int = SAVED) -> Path:
    """A copy of a run whose last checkpoint is that of this step."""
    shutil.copytree(run_directory, to)
    for path in list_checkpoints(to / "checkpoints"):
        if path.name != f"step-{step:08d}":
            shutil.rmtree(path)
    return to


def wait_for(directory: Path, lines: int, limit: float = 900) -> None:
    path, end = directory / "metrics.jsonl", time.monotonic() + limit
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < end, "the run does not get on"
        time.sleep(0.01)
