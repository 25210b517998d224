"""Recipes: one YAML file per run, validated completely before anything is loaded.

``registry.read_recipe`` looks up the task named in the file and validates every field with that task's recipe
class; the first error is one line that names the file and the field. The resolved recipe is saved with the
run.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from cogview.config import Config, dump_yaml
from cogview.errors import CogViewError
from cogview.files import write_file
from cogview.training.divergence import Guard
from cogview.training.optim import AdamWConfig, OptimizerConfig
from cogview.training.parallel import Parallel
from cogview.training.precision import SCALED, LossScaler, Precision
from cogview.training.schedule import Schedule
from cogview.training.trackers import TrackerName

RATE = ("steps", "schedule")  # fields that may change on resume if the learning rate does not jump
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Intervals(Config):
    """Intervals in steps; 0 is never. ``minutes``: maximum time between checkpoints."""

    log: int = Field(50, ge=1)
    evaluate: int = Field(1000, ge=0)
    sample: int = Field(1000, ge=0)
    checkpoint: int = Field(1000, ge=0)
    minutes: float | None = Field(10.0, gt=0)


class Recipe(Config):
    """The fields common to all runs; a task's recipe subclasses it, with ``task: Literal["its name"]``.

    ``batch_size`` is the size of a micro-batch (over all ranks), ``accumulation`` the number of micro-batches
    per update; ``seed`` determines initialization, data order and sampling. ``init``: a directory with
    initial weights. ``max_minutes``: stop cleanly after this time and leave a checkpoint. ``keep``: the
    number of latest checkpoints to keep; ``keep_every``: also keep those at multiples of this step (0: none).
    ``async_checkpoints``: write checkpoints in the background. ``guard``: handling of diverging losses.
    ``precision: auto`` is bf16 if it was measured to be faster, else fp32; ``fp16-o2`` computes with fp16
    weights (``precision.py``). The fields in ``CHANGEABLE`` may differ on resume.
    """

    CHANGEABLE: ClassVar[frozenset[str]] = frozenset(
        {
            "intervals",
            "keep",
            "keep_every",
            "async_checkpoints",
            "parallel",
            "max_minutes",
            "guard",
            "threads",
            "prefetch",
            "trackers",
            "device",
            "compile",
            "activation_checkpointing",
            "precision",
            "loss_scaler",
        }
    )

    task: str
    name: Name
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(ge=1)
    batch_size: int = Field(16, ge=1)
    accumulation: int = Field(1, ge=1)
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: Schedule = Schedule()
    clip: float | None = Field(1.0, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    precision: Precision = "fp32"
    loss_scaler: LossScaler = LossScaler()
    activation_checkpointing: bool = False
    compile: bool = False
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    threads: int | None = Field(None, ge=1, le=4096)
    prefetch: int = Field(2, ge=0, le=4096)
    intervals: Intervals = Intervals()
    keep: int = Field(3, ge=1)
    keep_every: int = Field(0, ge=0)
    async_checkpoints: bool = False
    parallel: Parallel = Parallel()
    trackers: tuple[TrackerName, ...] = ()
    init: Path | None = None
    max_minutes: float | None = Field(None, gt=0)
    guard: Guard = Guard()

    @model_validator(mode="after")
    def _combinations(self) -> Self:
        if (
            self.precision not in SCALED
            and "loss_scaler" in self.model_fields_set
            and self.loss_scaler != LossScaler()
        ):
            raise ValueError(f"loss_scaler is for fp16, but precision is {self.precision}")
        if not self.intervals.checkpoint and self.intervals.minutes is None:
            raise ValueError("intervals: checkpoint 0 and no minutes would never write a checkpoint")
        return self


# ---------------------------------------------------------------------------------------------- resuming


def write_recipe(recipe: Recipe, path: Path) -> None:
    """Save a resolved recipe as YAML, including all defaults."""
    write_file(path, dump_yaml(recipe))


def check_same(saved: Recipe, new: Recipe, path: Path, step: int = 0) -> None:
    """Raise CogViewError if a recipe differs from the run's in a field that may not change.

    ``steps`` and ``schedule`` may change if the learning rate of the next update, ``step``, stays the same: a
    run on its plateau can be extended, or begin its decay now.
    """
    _check_rate(saved, new, path, step)
    fixed = [name for name in type(new).model_fields if name not in {*new.CHANGEABLE, *RATE}]
    for name in fixed:
        before, now = saved.model_dump(mode="json").get(name), new.model_dump(mode="json")[name]
        if before != now:
            field, before, now = _difference(name, before, now)
            changeable = ", ".join(sorted(new.CHANGEABLE))
            raise CogViewError(
                f"{path}: {field} was {before!r} and is now {now!r}; on resume only {changeable} may change"
            )


def _check_rate(saved: Recipe, new: Recipe, path: Path, step: int) -> None:
    before, now = (recipe.schedule.factor(step, recipe.steps) for recipe in (saved, new))
    if new.steps < step:
        raise CogViewError(f"{path}: the run has done {step} steps, more than the {new.steps} of steps")
    if not math.isclose(before, now, rel_tol=1e-6):
        raise CogViewError(
            f"{path}: steps or schedule would change the learning rate of step {step} from {before:.3g} to "
            f"{now:.3g} of its peak; they may change only if the rate stays the same, as on the plateau of "
            "hold"
        )


def _difference(field: str, before: Any, now: Any) -> tuple[str, Any, Any]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return _difference(f"{field}.{key}", before.get(key), now.get(key))
    return field, before, now
