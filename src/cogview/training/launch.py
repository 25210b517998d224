"""Set up a run: its directory, processes, device and parallel strategy."""

from __future__ import annotations

from pathlib import Path

import torch

from cogview.config import read_yaml
from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import list_checkpoints
from cogview.training.locks import LOCK
from cogview.training.parallel import Parallel
from cogview.training.parallel.ranks import Ranks, launched_world, local_rank, restarted
from cogview.training.parallel.requirements import check_launch
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.precision import ALL_HALF
from cogview.training.recipe import Recipe, check_same, write_recipe
from cogview.training.task import Task


def prepare_directory(recipe: Recipe, directory: Path, resume: bool) -> None:
    """Create the run directory, or check that it contains the run to resume; raises CogViewError otherwise.

    A directory with only a recipe is a run that failed before its first step and may be started again.
    """
    saved = directory / "recipe.yaml"
    if resume:
        if not saved.is_file():
            raise CogViewError(f"{directory} holds no run to resume; start it without --resume")
        done = [int(path.name.removeprefix("step-")) for path in list_checkpoints(directory / "checkpoints")]
        check_same(read_yaml(type(recipe), saved), recipe, directory, max(done, default=0))
    elif directory.is_dir() and any(path.name not in (saved.name, LOCK) for path in directory.iterdir()):
        raise CogViewError(f"{directory} is not empty; add --resume to continue, or choose another --out")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_recipe(recipe, saved)
    except OSError as error:
        raise CogViewError(
            f"{directory} cannot be written ({error.strerror}); choose another --out"
        ) from error


def begin(recipe: Recipe, directory: Path, resume: bool, auto: bool = False) -> bool:
    """Prepare the run directory; True if there is a run to resume.

    ``auto``: resume if the run has been started. This is also done after torchrun has restarted the
    processes.
    """
    started = (directory / "recipe.yaml").is_file()
    resumes = resume or (started and (auto or restarted()))
    prepare_directory(recipe, directory, resumes)
    return resumes


def join_ranks(task: Task, recipe: Recipe) -> Ranks:
    """Join the processes of this run; raises CogViewError if they do not fit the recipe."""
    check_launch(recipe, task.parallel)
    if recipe.precision == ALL_HALF and not task.all_half:
        raise CogViewError(f"precision: {recipe.task} does not train in {ALL_HALF}; use fp16 or bf16")
    return Ranks.join(pick_device(recipe.device), recipe.parallel.minutes, recipe.parallel.tensor)


def pick_device(name: str) -> torch.device:
    """The device of a recipe; "auto" is the GPU if there is one. Raises CogViewError if it is not available.

    Each of several processes on a machine gets its own GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and launched_world() > 1:
        name = f"cuda:{local_rank()}"
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available[name.split(":")[0]]:
        raise CogViewError(f"device: {name} is not available here; use auto or cpu")
    return torch.device(name)


def make_strategy(ranks: Ranks, parallel: Parallel) -> ParallelStrategy:
    """The parallel strategy of a recipe on these ranks."""
    if ranks.world == 1:
        return ParallelStrategy(ranks, parallel)
    if parallel.kind == "deepspeed":
        from cogview.training.parallel.deepspeed import DeepSpeed

        return DeepSpeed(ranks, parallel)
    if parallel.tensor > 1:
        from cogview.training.parallel.tensor import TensorSharded

        return TensorSharded(ranks, parallel)
    if parallel.kind == "ddp":
        from cogview.training.parallel.data_parallel import DataParallel

        return DataParallel(ranks, parallel)
    from cogview.training.parallel.fsdp import Sharded

    return Sharded(ranks, parallel)
