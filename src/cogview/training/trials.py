"""Many runs of one recipe with different settings: a grid of lists, or a search by Optuna.

Every trial is an ordinary run in ``OUT/trials``. The process that works on it holds a lock on a file beside
it, which the system releases when the process ends, however it ends; so any number of processes, and machines
whose shared folder supports file locks, may run the same command. Killed and run again, a sweep goes on:
finished trials stay, begun ones resume from their checkpoints. ``result.json`` of a trial says what came of
it; one that failed is a line in the table, not the end.

Which trials there are stands in Optuna's journal, a file in the same folder: the combinations of a grid are
enqueued there, and a search proposes what the finished trials suggest.
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
    """``result.json``: how a trial ended. value: the metric, at ``step``; the best of its evaluations."""

    state: Literal["done", "failed"]
    overrides: tuple[str, ...]
    value: float | None = None
    step: int = Field(0, ge=0)
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Axis:
    """One thing that is varied: a recipe's field and its values, as YAML texts; or a range to search in."""

    path: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    whole: bool = False

    @property
    def is_range(self) -> bool:
        """Whether there are no listed values."""
        return not self.values


def parse_axis(text: str, fields: Sequence[str]) -> Axis:
    """``lr=1e-3,3e-4`` or ``lr=1e-4..1e-2``; a field by its path, or its last part where that is unique."""
    name, equals, given = text.partition("=")
    if not equals or not given.strip():
        raise CogViewError(f"--over {text}: write FIELD=VALUE,VALUE or FIELD=LOW..HIGH")
    path = _path(name.strip(), fields)
    found = RANGE.match(given.strip())
    if found:
        low, high = (parse_yaml(part, f"--over {name}") for part in found.groups())
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (low, high))
        if not numbers or low >= high:
            raise CogViewError(f"--over {text}: a range goes from a smaller to a larger number")
        return Axis(path, (), low, high, isinstance(low, int) and isinstance(high, int))
    values = tuple(part.strip() for part in split(given))
    if len(set(values)) < len(values) or not all(values):
        raise CogViewError(f"--over {text}: a value is empty or stands there twice")
    return Axis(path, values)


def split(text: str) -> list[str]:
    """The parts between commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _path(name: str, fields: Sequence[str]) -> str:
    """The path of a field that is named by itself or by its last part."""
    if "." in name or name in fields:
        return name
    ends = [field for field in fields if field.rpartition(".")[2] == name]
    if len(ends) > 1:
        raise CogViewError(f"--over {name}: that may be {', '.join(ends)}; write it out")
    return ends[0] if ends else name  # the recipe itself reports a wrong name


def field_paths(recipe: Recipe) -> list[str]:
    """``a.b`` of every field that holds a plain value or a list."""

    def walk(value: Any, before: str) -> Iterator[str]:
        for key, inner in value.items():
            path = f"{before}{key}"
            if isinstance(inner, dict) and inner:
                yield from walk(inner, f"{path}.")
            else:
                yield path

    return list(walk(recipe.model_dump(mode="json"), ""))


class Sweep:
    """A sweep of one recipe in one folder; ``metric`` is what counts, its least or ``largest`` value."""

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
            raise CogViewError("--over: say what to vary, as --over optimizer.lr=1e-3,3e-4")
        fields = field_paths(self._base())
        self.axes = [parse_axis(text, fields) for text in over]
        names = [axis.path for axis in self.axes]
        if len(set(names)) < len(names):
            raise CogViewError(f"--over: {next(n for n in names if names.count(n) > 1)} stands there twice")

    def _base(self) -> Recipe:
        """The recipe as it is, if it is one already; else the defaults of its task tell the fields."""
        data = load_yaml(self.recipe, self.overrides)
        if data.get("task") not in TASKS:
            raise CogViewError(f"{self.recipe}: task: {data.get('task')!r} is not one of {', '.join(TASKS)}")
        try:
            return read_recipe(self.recipe, self.overrides)
        except CogViewError:  # a field that is varied may be missing
            return task_class(data["task"]).recipe_class.model_construct(**data)

    # ------------------------------------------------------------------------------------------ a grid

    def grid(self) -> list[tuple[str, ...]]:
        """The overrides of every combination; all are checked before the first is trained."""
        ranges = [axis.path for axis in self.axes if axis.is_range]
        if ranges:
            raise CogViewError(f"--over {ranges[0]}: a range is searched; say how often: --search 20")
        combinations = itertools.product(*(axis.values for axis in self.axes))
        paths = [axis.path for axis in self.axes]
        found = [
            tuple(f"{path}={value}" for path, value in zip(paths, values, strict=True))
            for values in combinations
        ]
        for overrides in found:
            read_recipe(self.recipe, [*self.overrides, *overrides])
        return found

    def run(self) -> bool:
        """Work through the grid until nothing is left to do; False where a signal ended it."""
        trials = self.grid()
        mark = hashlib.sha256("\n".join(map(repr, trials)).encode()).hexdigest()[:12]
        study = open_study(self.out / JOURNAL, self.largest, 0, f"grid-{mark}")
        for overrides in trials:
            study.enqueue_trial(dict(text.split("=", 1) for text in overrides), skip_if_exists=True)
        return self._work(study, len(trials))

    def _trial(self, overrides: tuple[str, ...], title: str) -> bool:
        """Lock and run one trial; False where a signal stopped it."""
        directory = self.directory(overrides)
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(directory.with_name(f"{directory.name}.lock"), timeout=0):
                if self.result(overrides) is not None:
                    return True
                self.say(f"[{title}] {' '.join(overrides)}")
                return self._train(overrides, directory)
        except Timeout:
            return True  # another process works on it

    def _train(self, overrides: tuple[str, ...], directory: Path) -> bool:
        from cogview.training.launch import prepare_directory
        from cogview.training.trainer import Trainer

        began = time.monotonic()
        try:
            given = read_recipe(self.recipe, [*self.overrides, *overrides])
            resume = (directory / "recipe.yaml").is_file()
            prepare_directory(given, directory, resume)
            outcome = Trainer(task_class(given.task)(given), given, directory).fit(resume)
        except CogViewError as error:
            self._save(directory, Result(state="failed", overrides=overrides, error=str(error)))
            self.say(f"  failed: {error}")
            return True
        if outcome.stopped and outcome.stopped.startswith("received"):
            return False
        value, step = best(directory / "metrics.jsonl", self.metric, self.largest)
        seconds = round(time.monotonic() - began, 1)
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
        """Where a trial is: named after what it varies."""
        plain = re.sub(r"[^A-Za-z0-9.=,_-]+", "_", ",".join(overrides))[:80]
        mark = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:6]
        return self.out / "trials" / f"{plain}-{mark}"

    def result(self, overrides: Sequence[str]) -> Result | None:
        """How a trial ended; None where it did not."""
        path = self.directory(overrides) / RESULT
        return read_json(Result, path) if path.is_file() else None

    # ------------------------------------------------------------------------------------------ a search

    def search(self, trials: int, seed: int = 0) -> bool:
        """Let Optuna choose until ``trials`` are finished; False where a signal ended it."""
        return self._work(open_study(self.out / JOURNAL, self.largest, seed, "sweep"), trials)

    # ------------------------------------------------------------------------------------------ its trials

    def _work(self, study: Any, trials: int) -> bool:
        """Run what is enqueued and what the study proposes, until it has ``trials`` trials; False where a
        signal ended it."""
        while True:
            known = study.get_trials(deepcopy=False)
            for trial in (trial for trial in known if trial.state.name == "RUNNING"):
                # begun by a process that is gone, or is another's; perhaps killed before it chose
                params = trial.params or trial.system_attrs.get("fixed_params", {})
                if not self._tell(study, trial.number, self._chosen(params), trials):
                    return False
            if len(known) >= trials and not any(trial.state.name == "WAITING" for trial in known):
                return True  # what is not finished is being worked on elsewhere
            asked = study.ask()
            params = {axis.path: suggest(asked, axis) for axis in self.axes}
            if not self._tell(study, asked.number, self._chosen(params), trials):
                return False

    def _chosen(self, params: dict[str, Any]) -> tuple[str, ...]:
        return tuple(f"{axis.path}={params[axis.path]}" for axis in self.axes if axis.path in params)

    def _tell(self, study: Any, number: int, overrides: tuple[str, ...], trials: int) -> bool:
        """Run one of the study's trials if it is free and tell the study; False where a signal stopped it."""
        if len(overrides) < len(self.axes):  # killed between asking and choosing
            study.tell(number, state=_state("FAIL"), skip_if_finished=True)
            return True
        if self.result(overrides) is None and not self._trial(overrides, f"{number + 1}/{trials}"):
            return False
        found = self.result(overrides)
        if found is not None and found.value is not None:
            study.tell(number, found.value, skip_if_finished=True)
        elif found is not None:
            study.tell(number, state=_state("FAIL"), skip_if_finished=True)
        return True

    # ------------------------------------------------------------------------------------------ the table

    def results(self) -> list[Result]:
        """Every trial that ended, the best first, failures last."""
        found = [read_json(Result, path) for path in sorted(self.out.glob(f"trials/*/{RESULT}"))]
        sign = -1 if self.largest else 1
        return sorted(found, key=lambda r: (r.value is None, sign * (r.value or 0.0)))


def open_study(path: Path, largest: bool, seed: int, name: str) -> Any:
    """A study in Optuna's journal, a file that many processes may share."""
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
    own = None if study.get_trials(deepcopy=False) else seed  # the same again would propose the same again
    study.sampler = optuna.samplers.TPESampler(seed=own, constant_liar=True)
    return study


def suggest(trial: Any, axis: Axis) -> Any:
    """A value of an axis; ranges over more than a factor of ten are searched by their logarithm."""
    if not axis.is_range:
        return trial.suggest_categorical(axis.path, list(axis.values))
    logarithmic = axis.low > 0 and axis.high / axis.low >= 10
    if axis.whole:
        return trial.suggest_int(axis.path, int(axis.low), int(axis.high), log=logarithmic)
    return trial.suggest_float(axis.path, axis.low, axis.high, log=logarithmic)


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def best(metrics: Path, name: str, largest: bool = False) -> tuple[float | None, int]:
    """The best value of a metric and its step: of the evaluations if there are any, else of training."""
    lines = MetricsFile(metrics).lines()
    for kind in ("evaluate", "train"):
        found = [
            (line[name], line["step"])
            for line in lines
            if line["kind"] == kind and _is_number(line.get(name))
        ]
        if found:
            return (max if largest else min)(found, key=lambda pair: pair[0])
    return None, 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
