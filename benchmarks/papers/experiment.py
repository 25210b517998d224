"""One spine for the papers' experiments on training: settings, arms, JSON, plot.

An :class:`Experiment` is a recipe, its arms (each a few overrides of it), what is measured of the runs and
how that is drawn. An arm is an ordinary run of ``cogview train``'s trainer in ``OUT``; runs that ended are
kept, begun ones go on. What was found is written as JSON with the command, the machine, the data, the seeds
and the processor time of every run, and drawn by matplotlib from that JSON alone. ``--rehearse`` runs all of
it at a tiny size, on data of its own, in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from world import World, write_world

from cogview.data.shards import file_hash
from cogview.errors import TrainingDiverged
from cogview.evaluation.reports import versions
from cogview.files import write_file
from cogview.reports.plots import COLOURS, new_figure, write_figure
from cogview.training.launch import begin
from cogview.training.metrics_file import MetricsFile
from cogview.training.recipe import Recipe
from cogview.training.registry import read_recipe, task_class
from cogview.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
RECIPE = Path(__file__).with_name("recipe.yaml")
RESULT = "result.json"
Found = dict[str, Any]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One arm's run with one seed: where it is, and how it ended (``ended``: the step it diverged at)."""

    arm: str
    seed: int
    directory: Path
    steps: int
    processor_seconds: float
    ended: int | None = None
    why: str = ""

    def curve(self, name: str = "loss", kind: str = "train") -> Points:
        """(step, value) of a metric in all lines of a kind that have it."""
        lines = MetricsFile(self.directory / "metrics.jsonl").lines()
        return [(o["step"], o[name]) for o in lines if o["kind"] == kind and o.get(name) is not None]

    def last(self, name: str = "loss", kind: str = "evaluate") -> float | None:
        """A metric's last value; None where the run did not come so far."""
        points = self.curve(name, kind)
        return points[-1][1] if points else None


@dataclass(frozen=True)
class Experiment:
    """What an experiment is made of.

    claim: what the paper says, and where. settings, arms: overrides of the recipe, as those of ``--set``.
    rehearsal: overrides for seconds; ``rehearsed``: arms that take other ones there. measure: figures of a
    run; curve: the metric that is kept of it. plot: draws what was found. data: writes the data where none
    are given; ``worlds``: its sizes in earnest and in a rehearsal. apart: each run in a process of its own,
    for its memory.
    """

    name: str
    claim: str
    arms: Mapping[str, Sequence[str]]
    plot: Callable[[Found, Any], None]
    settings: Sequence[str] = ()
    rehearsal: Sequence[str] = ()
    rehearsed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    measure: Callable[[Run], Found] = field(default=lambda run: {"loss": run.last()})
    curve: str = "loss"
    recipe: Path = RECIPE
    seeds: int = 1
    data: Callable[[Path, World], Path] = write_world
    worlds: tuple[World, World] = (World(), World(items=256))
    apart: bool = False


def parse(experiment: Experiment, words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=experiment.claim)
    parser.add_argument("--data", type=Path, help="what `cogview data` made; default: data of its own")
    parser.add_argument("--out", type=Path, help=f"the runs; default runs/papers/{experiment.name}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe")
    parser.add_argument("--only", choices=list(experiment.arms), help="one arm, nothing measured")
    parser.add_argument("--seeds", type=int, default=experiment.seeds, help="runs of every arm")
    parser.add_argument("--rehearse", action="store_true", help="all of it at a tiny size, in seconds")
    parser.add_argument("--keep", action="store_true", help="write to benchmarks/results and docs/images")
    given = parser.parse_args(words)
    place = "rehearsals" if given.rehearse else "papers"
    given.out = given.out or Path("runs") / place / experiment.name
    kept = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
    results, plots = kept if given.keep else (given.out, given.out)
    given.result = results / f"paper_{experiment.name}.json"
    given.plot = plots / f"paper_{experiment.name}.png"
    return given


def main(experiment: Experiment, words: Sequence[str] | None = None) -> Found:
    """Train all arms, measure, write, draw; what was found."""
    given = parse(experiment, words)
    given.out.mkdir(parents=True, exist_ok=True)
    data = given.data or experiment.data(given.out / "data", experiment.worlds[given.rehearse])
    arms = [given.only] if given.only else list(experiment.arms)
    runs: dict[str, list[Run]] = {arm: [] for arm in arms}
    for seed in range(1, given.seeds + 1):
        for arm in arms:
            recipe = recipe_of(experiment, given, arm, seed, data)
            directory = given.out / f"{arm.replace(' ', '-')}-{seed}"
            if experiment.apart and not given.only:
                in_a_process(experiment, given, arm)
            runs[arm].append(train(recipe, directory, arm, seed))
            print(told(runs[arm][-1], experiment.measure(runs[arm][-1])), flush=True)
    if given.only:
        return {}
    found = described(experiment, given, data, runs)
    write_file(given.result, json.dumps(found, indent=1) + "\n")
    draw(experiment, found, given.plot)
    print(given.result, given.plot, sep="\n")
    return found


def recipe_of(experiment: Experiment, given: argparse.Namespace, arm: str, seed: int, data: Path) -> Recipe:
    """The recipe of one run."""
    tiny = experiment.rehearsal if given.rehearse else ()
    if given.rehearse and arm in experiment.rehearsed:
        own = experiment.rehearsed[arm]
    else:
        own = experiment.arms[arm]
    overrides = [*experiment.settings, *own, *tiny, *given.set]
    return read_recipe(experiment.recipe, [f"data={data}", f"seed={seed}", *overrides])


def in_a_process(experiment: Experiment, given: argparse.Namespace, arm: str) -> None:
    """The same command for one arm alone."""
    script = Path(__file__).with_name(f"{experiment.name}.py")
    own = [*words_of(experiment, given), "--only", arm, "--out", str(given.out)]
    subprocess.run([sys.executable, str(script), *own], check=True)


def words_of(experiment: Experiment, given: argparse.Namespace) -> list[str]:
    """The arguments that decide what is found."""
    words = ["--data", str(given.data)] if given.data else []
    words += [word for override in given.set for word in ("--set", override)]
    words += ["--seeds", str(given.seeds)] if given.seeds != experiment.seeds else []
    return words + (["--rehearse"] if given.rehearse else [])


def train(recipe: Recipe, directory: Path, arm: str, seed: int) -> Run:
    """One run; one that ended before is read again, one that was stopped goes on."""
    kept = directory / RESULT
    if not kept.is_file():
        began, ended, why = time.process_time(), None, ""
        go_on = begin(recipe, directory, resume=False, auto=True)
        trainer = Trainer(task_class(recipe.task)(recipe), recipe, directory)
        try:
            step, stopped = (outcome := trainer.fit(go_on)).step, outcome.stopped
            if stopped.startswith("received"):
                sys.exit(f"{directory}: {stopped} at step {step}; the same command goes on")
        except TrainingDiverged as error:
            step = ended = trainer.step
            why = str(error)
        seconds = round(time.process_time() - began, 1)
        told = {"steps": step, "processor_seconds": seconds, "ended": ended, "why": why}
        write_file(kept, json.dumps(told) + "\n")
    return Run(arm, seed, directory, **json.loads(kept.read_text()))


def told(run: Run, figures: Found) -> str:
    """One line about a run."""
    end = f"diverged at step {run.ended}" if run.ended is not None else f"{run.steps} steps"
    numbers = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if isinstance(v, float))
    return f"{run.arm}, seed {run.seed}: {end}, {run.processor_seconds:.0f} s; {numbers}"


def described(
    experiment: Experiment,
    given: argparse.Namespace,
    data: Path,
    runs: Mapping[str, Sequence[Run]],
) -> Found:
    """All that the figures hang on, and the figures."""
    first = next(iter(experiment.arms))
    base = recipe_of(experiment, given, first, 1, data).model_dump(mode="json")
    return {
        "experiment": experiment.name,
        "claim": experiment.claim,
        "rehearsal": given.rehearse,
        "command": shlex.join(
            ["python", f"benchmarks/papers/{experiment.name}.py", *words_of(experiment, given)]
        ),
        "machine": machine(),
        "data": data_facts(data),
        "recipe": {k: v for k, v in base.items() if k not in ("data", "seed", "name")},
        "arms": {arm: arm_facts(experiment, arm, own) for arm, own in runs.items()},
    }


def arm_facts(experiment: Experiment, arm: str, runs: Sequence[Run]) -> Found:
    """An arm's overrides, its runs, and the mean of each figure over them with its range."""
    each = [experiment.measure(run) for run in runs]
    names = [name for name in each[0] if all(isinstance(one[name], float) for one in each)]
    figures = {name: mean_and_range([one[name] for one in each]) for name in names}
    return {
        "overrides": list(experiment.arms[arm]),
        "figures": figures,
        "runs": [run_facts(run, own, experiment.curve) for run, own in zip(runs, each, strict=True)],
    }


def run_facts(run: Run, figures: Found, curve: str) -> Found:
    """One run: its end, its figures, its curve and the hash of its weights."""
    weights = run.directory / "model" / "model.safetensors"
    return {
        "seed": run.seed,
        "steps": run.steps,
        "ended": run.ended,
        "why": run.why,
        "processor_seconds": run.processor_seconds,
        "weights_sha256": file_hash(weights) if weights.is_file() else None,
        "figures": figures,
        "curve": [[step, round(value, 5)] for step, value in run.curve(curve)],
    }


def mean_and_range(values: Sequence[float]) -> Found:
    """The mean of several runs; the least and the largest where there are two or more."""
    several = {"low": min(values), "high": max(values)} if len(values) > 1 else {}
    return {"value": statistics.fmean(values), **several}


def machine() -> Found:
    """The processor, the threads and the versions of what computed."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    name = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.machine())
    known = next((x.split(":")[1].split() for x in lines if x.startswith("flags")), [])
    flags = {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16"} & set(known)
    return {
        "processor": name,
        "instructions": sorted(flags),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **versions(),
    }


def data_facts(data: Path) -> Found:
    """The name and the identity of the data: the hash of the index of token shards or a picture cache."""
    for name in ("index.json", "images.json"):
        if (data / name).is_file():
            return {"name": data.name, "sha256": file_hash(data / name)}
    raise FileNotFoundError(f"{data}: neither token shards nor a picture cache")


# ------------------------------------------------------------------------------------------------- drawing


def draw(experiment: Experiment, found: Found, path: Path) -> None:
    """The experiment's plot of what was found."""
    figure = new_figure(7.2, 4.0)
    experiment.plot(found, figure)
    write_figure(figure, path)


def curves(found: Found, axes: Any, scale: Mapping[str, float] | None = None, width: int = 0) -> None:
    """Every run's curve, an arm a colour, smoothed over ``width`` neighbours; steps times the arm's scale."""
    for colour, (arm, facts) in zip(COLOURS, found["arms"].items(), strict=False):
        for number, run in enumerate(facts["runs"]):
            points = smooth(run["curve"], width)
            x = [step * (scale or {}).get(arm, 1.0) for step, _ in points]
            label = arm if number == 0 else None
            axes.plot(x, [y for _, y in points], color=colour, linewidth=1.1, alpha=0.85, label=label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize="small")


def bars(found: Found, axes: Any, name: str) -> None:
    """An arm a bar, with the range over its runs."""
    for number, facts in enumerate(found["arms"].values()):
        own = facts["figures"][name]
        reach = [
            [own["value"] - own.get("low", own["value"])],
            [own.get("high", own["value"]) - own["value"]],
        ]
        axes.bar(number, own["value"], 0.7, yerr=reach, capsize=3, color=COLOURS[number])
    axes.set_xticks(range(len(found["arms"])), list(found["arms"]), fontsize="small")
    axes.grid(axis="y", alpha=0.3)


def smooth(points: Sequence[Sequence[float]], width: int) -> Points:
    """The mean of each point and of ``width`` on either side."""
    found = []
    for i, (step, _) in enumerate(points):
        near = [value for _, value in points[max(0, i - width) : i + width + 1]]
        found.append((step, statistics.fmean(near)))
    return found
