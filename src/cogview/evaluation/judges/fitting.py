"""The trainer for small networks that judge images: a recipe of few settings, a run that is removed after.

Both small judges, the attribute classifier and the alignment scorer, are trained so by ``cogview eval
train-classifier`` and ``train-scorer``; ``cogview train`` takes their recipes too.
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
    kind: type[R], training: ClassifierTraining | ScorerTraining, count: int, clip: float, **own: Any
) -> R:
    """The recipe of ``training`` with ``count`` images: AdamW, a fifth of the steps up, a cosine to 0.

    own: the recipe's other fields.
    """
    steps = math.ceil(training.epochs * max(1, count // training.batch))
    decay = {"lr": training.rate, "betas": (0.9, 0.98), "weight_decay": training.weight_decay}
    fields = {
        "task": kind.model_fields["task"].annotation.__args__[0],  # type: ignore[union-attr]
        "name": "judge",
        "seed": training.seed,
        "steps": steps,
        "batch_size": training.batch,
        "optimizer": {"kind": "adamw", **decay},
        "schedule": {"kind": "cosine", "warmup": 0.2, "floor": 0.0},
        "clip": clip,
        "intervals": {"log": max(1, steps // 20), "evaluate": steps, "sample": 0, "checkpoint": 500},
        "keep": 1,
    }
    return validate(kind, fields | own, kind.__name__)


def fit(task: Task, run: Path | None = None) -> nn.Module:
    """Train, and return the network in eval mode; KeyboardInterrupt where a signal stopped it.

    run: the run's directory, where a training with this recipe that was stopped goes on; it is removed at the
    end. None: one that nobody sees, and no word on the terminal.
    """
    recipe = task.recipe
    with contextlib.ExitStack() as stack:
        place = run or Path(stack.enter_context(TemporaryDirectory())) / "run"
        saved = place / "recipe.yaml"
        go_on = saved.is_file() and read_yaml(type(recipe), saved) == recipe
        if not go_on:
            shutil.rmtree(place, ignore_errors=True)
        prepare_directory(recipe, place, go_on)
        trainer = Trainer(task, recipe, place, Console(stderr=True, quiet=run is None))
        outcome = trainer.fit(go_on)
        if outcome.stopped:
            raise KeyboardInterrupt
        shutil.rmtree(place, ignore_errors=True)
    return trainer.model.eval()
