"""Training of the two small judges in one call: a recipe from a few settings, and a temporary run.

``cogview eval train-classifier`` and ``train-scorer`` train the attribute classifier and the alignment scorer
this way; ``cogview train`` takes their recipes too.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from rich.console import Console
from torch import nn

from cogview.config import read_yaml, validate
from cogview.evaluation.plans import ClassifierTraining, ScorerTraining
from cogview.training.launch import prepare_directory
from cogview.training.recipe import Recipe
from cogview.training.task import Task
from cogview.training.trainer import Trainer

R = TypeVar("R", bound=Recipe)


def judge_recipe(
    kind: type[R], training: ClassifierTraining | ScorerTraining, count: int, clip: float, **more: Any
) -> R:
    """The recipe of ``training`` with ``count`` images: AdamW, warmup over a fifth of the steps, cosine to 0.

    more: the recipe's other fields.
    """
    steps = math.ceil(training.epochs * max(1, count // training.batch))
    adamw = {"lr": training.rate, "betas": (0.9, 0.98), "weight_decay": training.weight_decay}
    fields = {
        "task": kind.model_fields["task"].annotation.__args__[0],  # type: ignore[union-attr]
        "name": "judge",
        "seed": training.seed,
        "steps": steps,
        "batch_size": training.batch,
        "optimizer": {"kind": "adamw", **adamw},
        "schedule": {"kind": "cosine", "warmup": 0.2, "floor": 0.0},
        "clip": clip,
        "intervals": {"log": max(1, steps // 20), "evaluate": steps, "sample": 0, "checkpoint": 500},
        "keep": 1,
    }
    return validate(kind, fields | more, kind.__name__)


def fit(task: Task, run: Path | None = None) -> nn.Module:
    """Train, and return the network in eval mode; raises KeyboardInterrupt if a signal stopped training.

    run: the run's directory, in which an interrupted training with the same recipe resumes; it is removed at
    the end. None: a temporary directory, and no output on the terminal.
    """
    recipe = task.recipe
    with contextlib.ExitStack() as stack:
        directory = run or Path(stack.enter_context(TemporaryDirectory())) / "run"
        saved = directory / "recipe.yaml"
        resume = saved.is_file() and read_yaml(type(recipe), saved) == recipe
        if not resume:
            shutil.rmtree(directory, ignore_errors=True)
        prepare_directory(recipe, directory, resume)
        trainer = Trainer(task, recipe, directory, Console(stderr=True, quiet=run is None))
        outcome = trainer.fit(resume)
        if outcome.stopped:
            raise KeyboardInterrupt
        shutil.rmtree(directory, ignore_errors=True)
    return trainer.model.eval()
