"""Hyperparameter sweeps: many runs of one recipe, as a grid of values or a search with Optuna.

Every trial is an ordinary run in ``OUT/trials``. The process that runs it locks a file beside it, which the
system releases when the process ends, however it ends; so any number of processes, also on machines whose
shared folder supports file locks, may run the same command. A sweep that was killed resumes when it is run
again: finished trials are kept, started ones resume from their checkpoints. ``result.json`` of a trial
records its result; a failed trial is a line in the table and does not stop the sweep.

The trials are recorded in Optuna's journal, a file in the same folder: a grid enqueues its combinations, and
a search proposes trials from the finished ones.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout  # a dependency of PyTorch
from pydantic import Field

from cogview.config import Config, load_yaml, parse_yaml, read_json
from cogview.data.shards import write_atomically
from cogview.errors import CogViewError
from cogview.training.metrics_file import MetricsFile
from cogview.training.recipe import Recipe
from cogview.training.registry import TASKS, read_recipe, task_class

RESULT, JOURNAL = "result.json", "optuna.log"
RANGE = re.compile(r"^([^.]*(?:\.\d[^.]*)?)\.\.(.+)$")


class Result(Config):
    """``result.json``: the result of a trial. value: the best value of the metric, at ``step``."""

    state: Literal["done", "failed"]
    overrides: tuple[str, ...]
    value: float | None = None
    step: int = Field(0, ge=0)
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Axis:
    """One dimension of a sweep: a recipe's field, and its values in YAML or a range to search."""

    path: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    integer: bool = False

    @property
    def is_range(self) -> bool:
        """Whether the axis is a range."""
        return not self.values


def parse_axis(text: str, fields: Sequence[str]) -> Axis:
    """Parse ``lr=1e-3,3e-4`` or ``lr=1e-4..1e-2``; the field is a path, or its last part if unique."""
    name, equals, choices = text.partition("=")
    if not equals or not choices.strip():
        raise CogViewError(f"--over {text}: write FIELD=VALUE,VALUE or FIELD=LOW..HIGH")
    path = _path(name.strip(), fields)
    bounds = RANGE.match(choices.strip())
    if bounds:
        low, high = (parse_yaml(part, f"--over {name}") for part in bounds.groups())
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high))
        if not numbers or low >= high:
            raise CogViewError(f"--over {text}: a range goes from a smaller to a larger number")
        return Axis(path, (), low, high, isinstance(low, int) and isinstance(high, int))
    values = tuple(part.strip() for part in split(choices))
    if len(set(values)) < len(values) or not all(values):
        raise CogViewError(f"--over {text}: a value is empty or appears twice")
    return Axis(path, values)


def split(text: str) -> list[str]:
    """Split at commas that are not in brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _path(name: str, fields: Sequence[str]) -> str:
    """The path of a field given by its path or its last part."""
    if "." in name or name in fields:
        return name
    ends = [field for field in fields if field.rpartition(".")[2] == name]
    if len(ends) > 1:
        raise CogViewError(f"--over {name}: may be {', '.join(ends)}; give the full path")
    return ends[0] if ends else name  # validating the recipe reports an unknown name


def field_paths(recipe: Recipe) -> list[str]:
    """The paths ``a.b`` of all fields with a plain value or a list."""

    def walk(value: Any, prefix: str) -> Iterator[str]:
        for key, inner in value.items():
            path = f"{prefix}{key}"
            if isinstance(inner, dict) and inner:
                yield from walk(inner, f"{path}.")
            else:
                yield path

    return list(walk(recipe.model_dump(mode="json"), ""))


class Sweep:
    """A sweep of a recipe in a folder that minimizes ``metric``, or maximizes it if ``largest``."""

    def __init__(
        self,
        recipe: Path,
        overrides: Sequence[str],
        over: Sequence[str],
        out: Path,
        *,
        metric: str = "loss",
        largest: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.recipe, self.overrides, self.out = recipe, tuple(overrides), out
        self.metric, self.largest, self.say = metric, largest, say
        if not over:
            raise CogViewError("--over: give the fields to vary, such as --over optimizer.lr=1e-3,3e-4")
        fields = field_paths(self._base())
        self.axes = [parse_axis(text, fields) for text in over]
        names = [axis.path for axis in self.axes]
        if len(set(names)) < len(names):
            raise CogViewError(f"--over: {next(n for n in names if names.count(n) > 1)} appears twice")

    def _base(self) -> Recipe:
        """The recipe if it is valid on its own, else an unvalidated one with its task's defaults."""
        data = load_yaml(self.recipe, self.overrides)
        if data.get("task") not in TASKS:
            raise CogViewError(f"{self.recipe}: task: {data.get('task')!r} is not one of {', '.join(TASKS)}")
        try:
            return read_recipe(self.recipe, self.overrides)
        except CogViewError:  # a varied field may be missing
            return task_class(data["task"]).recipe_class.model_construct(**data)

    # ------------------------------------------------------------------------------------------ a grid

    def grid(self) -> list[tuple[str, ...]]:
        """The overrides of every combination; all are validated before the first is trained."""
        ranges = [axis.path for axis in self.axes if axis.is_range]
        if ranges:
            raise CogViewError(
                f"--over {ranges[0]}: a range needs a search; give the number of trials: --search 20"
            )
        combinations = itertools.product(*(axis.values for axis in self.axes))
        paths = [axis.path for axis in self.axes]
        trials = [
            tuple(f"{path}={value}" for path, value in zip(paths, values, strict=True))
            for values in combinations
        ]
        for overrides in trials:
            read_recipe(self.recipe, [*self.overrides, *overrides])
        return trials

    def run(self) -> bool:
        """Run the grid to the end; False if a signal stopped it."""
        trials = self.grid()
        digest = hashlib.sha256("\n".join(map(repr, trials)).encode()).hexdigest()[:12]
        study = open_study(self.out / JOURNAL, self.largest, 0, f"grid-{digest}")
        for overrides in trials:
            study.enqueue_trial(dict(text.split("=", 1) for text in overrides), skip_if_exists=True)
        return self._work(study, len(trials))

    def _trial(self, overrides: tuple[str, ...], title: str) -> bool:
        """Lock and run one trial; False if a signal stopped it."""
        directory = self.directory(overrides)
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(directory.with_name(f"{directory.name}.lock"), timeout=0):
                if self.result(overrides) is not None:
                    return True
                self.say(f"[{title}] {' '.join(overrides)}")
                return self._train(overrides, directory)
        except Timeout:
            return True  # another process runs it

    def _train(self, overrides: tuple[str, ...], directory: Path) -> bool:
        from cogview.training.launch import prepare_directory
        from cogview.training.trainer import Trainer

        start = time.monotonic()
        try:
            recipe = read_recipe(self.recipe, [*self.overrides, *overrides])
            resume = (directory / "recipe.yaml").is_file()
            prepare_directory(recipe, directory, resume)
            outcome = Trainer(task_class(recipe.task)(recipe), recipe, directory).fit(resume)
        except CogViewError as error:
            self._save(directory, Result(state="failed", overrides=overrides, error=str(error)))
            self.say(f"  failed: {error}")
            return True
        if outcome.stopped and outcome.stopped.startswith("received"):
            return False
        value, step = best(directory / "metrics.jsonl", self.metric, self.largest)
        seconds = round(time.monotonic() - start, 1)
        self._save(
            directory,
            Result(state="done", overrides=overrides, value=value, step=step, seconds=seconds),
        )
        self.say(f"  {self.metric} {'none' if value is None else f'{value:.5g}'}")
        return True

    def _save(self, directory: Path, result: Result) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / RESULT, result.model_dump_json(indent=1) + "\n")

    def directory(self, overrides: Sequence[str]) -> Path:
        """The directory of a trial, named after its overrides."""
        plain = re.sub(r"[^A-Za-z0-9.=,_-]+", "_", ",".join(overrides))[:80]
        digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
        return self.out / "trials" / f"{plain}-{digest}"

    def result(self, overrides: Sequence[str]) -> Result | None:
        """The result of a trial, or None if it has not ended."""
        path = self.directory(overrides) / RESULT
        return read_json(Result, path) if path.is_file() else None

    # ------------------------------------------------------------------------------------------ a search

    def search(self, trials: int, seed: int = 0) -> bool:
        """Run trials proposed by Optuna until there are ``trials``; False if a signal stopped it."""
        return self._work(open_study(self.out / JOURNAL, self.largest, seed, "sweep"), trials)

    # ------------------------------------------------------------------------------------------ trials

    def _work(self, study: Any, trials: int) -> bool:
        """Run enqueued and proposed trials until the study has ``trials`` trials; False if a signal stopped
        it."""
        while True:
            known = study.get_trials(deepcopy=False)
            for trial in (trial for trial in known if trial.state.name == "RUNNING"):
                # started by a dead process or by another one; possibly killed before its values were set
                params = trial.params or trial.system_attrs.get("fixed_params", {})
                if not self._run_and_tell(study, trial.number, self._as_overrides(params), trials):
                    return False
            if len(known) >= trials and not any(trial.state.name == "WAITING" for trial in known):
                return True  # unfinished trials are being run by other processes
            proposed = study.ask()
            params = {axis.path: suggest(proposed, axis) for axis in self.axes}
            if not self._run_and_tell(study, proposed.number, self._as_overrides(params), trials):
                return False

    def _as_overrides(self, params: dict[str, Any]) -> tuple[str, ...]:
        return tuple(f"{axis.path}={params[axis.path]}" for axis in self.axes if axis.path in params)

    def _run_and_tell(self, study: Any, number: int, overrides: tuple[str, ...], trials: int) -> bool:
        """Run one of the study's trials if it is free, and report its result to the study.

        Returns False if a signal stopped it.
        """
        if len(overrides) < len(self.axes):  # killed before all values were set
            study.tell(number, state=_state("FAIL"), skip_if_finished=True)
            return True
        if self.result(overrides) is None and not self._trial(overrides, f"{number + 1}/{trials}"):
            return False
        result = self.result(overrides)
        if result is not None and result.value is not None:
            study.tell(number, result.value, skip_if_finished=True)
        elif result is not None:
            study.tell(number, state=_state("FAIL"), skip_if_finished=True)
        return True

    # ------------------------------------------------------------------------------------------ the table

    def results(self) -> list[Result]:
        """The results of all ended trials, the best first, failures last."""
        results = [read_json(Result, path) for path in sorted(self.out.glob(f"trials/*/{RESULT}"))]
        sign = -1 if self.largest else 1
        return sorted(results, key=lambda r: (r.value is None, sign * (r.value or 0.0)))


def open_study(path: Path, largest: bool, seed: int, name: str) -> Any:
    """Open a study in Optuna's journal, a file that many processes may share."""
    if find_spec("optuna") is None:
        raise CogViewError("a sweep needs Optuna; install it with: pip install 'cogview[train]'")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
    study = optuna.create_study(
        study_name=name,
        storage=JournalStorage(backend),
        direction="maximize" if largest else "minimize",
        load_if_exists=True,
    )
    # the same seed on resume would propose the same trials again
    sampler_seed = None if study.get_trials(deepcopy=False) else seed
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)
    return study


def suggest(trial: Any, axis: Axis) -> Any:
    """Sample a value of an axis; ranges that span a factor of ten or more are searched logarithmically."""
    if not axis.is_range:
        return trial.suggest_categorical(axis.path, list(axis.values))
    logarithmic = axis.low > 0 and axis.high / axis.low >= 10
    if axis.integer:
        return trial.suggest_int(axis.path, int(axis.low), int(axis.high), log=logarithmic)
    return trial.suggest_float(axis.path, axis.low, axis.high, log=logarithmic)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def best(metrics: Path, name: str, largest: bool = False) -> tuple[float | None, int]:
    """The best value of a metric and its step, from the evaluations if there are any, else from training."""
    lines = MetricsFile(metrics).lines()
    for kind in ("evaluate", "train"):
        points = [
            (line[name], line["step"])
            for line in lines
            if line["kind"] == kind and _is_number(line.get(name))
        ]
        if points:
            return (max if largest else min)(points, key=lambda pair: pair[0])
    return None, 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
