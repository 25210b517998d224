"""Does an image show the scene that was asked for? GenEval's six tasks (Ghosh et al., 2023).

Prompts are of combinations that no training image shows (``prompts/scenes.jsonl``); a reader of scenes
detects things in the images and the rules of ``metrics/scene_rules.py`` judge them. The ceiling is the same
of the true scenes of the prompts, the floor that of the images of other prompts of the same task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cogview.config import Config
from cogview.data.image_cache import ImageCache
from cogview.data.images import decode
from cogview.errors import CogViewError
from cogview.evaluation.metrics.accuracy import Figure, bootstrap_weights, figure
from cogview.evaluation.metrics.scene_rules import TASKS, Detection, Rules, ScenePrompt, SceneReader, judge
from cogview.evaluation.plans import ScenesPlan
from cogview.evaluation.prompts import scene_prompts
from cogview.evaluation.sample_store import WHOLE, ImageGenerator, Progress, generate_images, report_facts

READ = 64  # images in memory at a time


class TaskReading(Config):
    """The share of right images of one task (or ``overall``, the tasks' mean), its ceiling and its floor."""

    images: int
    right: Figure
    ceiling: float | None = None
    of_ceiling: Figure | None = None
    floor: float
    wrong: dict[str, int] = Field(default_factory=dict)


class ScenesReport(Config):
    """Everything one run found, by language and task."""

    format: Literal[1] = 1
    plan: ScenesPlan
    readings: dict[str, dict[str, TaskReading]]
    facts: dict[str, str | int | float]


def chosen(prompts: Sequence[ScenePrompt], count: int | None) -> list[ScenePrompt]:
    """About ``count`` prompts, evenly of every task and evenly spaced within it, in their order."""
    if count is None or count >= len(prompts):
        return list(prompts)
    found: list[ScenePrompt] = []
    for place, task in enumerate(TASKS):
        own = [prompt for prompt in prompts if prompt.task == task]
        wanted = min(len(own), (count + place) // len(TASKS))
        found += [own[i * len(own) // wanted] for i in range(wanted)]
    return found


def evaluate_scenes(
    plan: ScenesPlan,
    reader: SceneReader,
    generator: ImageGenerator,
    work: Path,
    real: Path | None = None,
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> tuple[ScenesReport, dict[str, list[Path]]] | None:
    """Generate, read and judge; the report and each language's images. None while other ranks have work.

    real: an image cache of the prompts' true scenes, for the ceiling.

    Raises:
        CogViewError: files cannot be read or written, a true scene is missing.
    """
    prompts, images = chosen(scene_prompts(), plan.count), dict[str, list[Path]]()
    for language in plan.languages:
        texts, what = [getattr(prompt, language) for prompt in prompts], f"generating {language}"
        paths = generate_images(texts, generator, work, plan, rank, what, progress)
        images |= {} if paths is None else {language: paths}
    if len(images) < len(plan.languages):
        return None
    ceiling = ceiling_of(prompts, reader, real, progress) if real else None
    readings = {}
    for name, paths in images.items():
        seen = read_files(reader, paths, f"reading {name}", progress)
        readings[name] = score(prompts, seen, reader.rules, ceiling, plan.bootstrap, plan.seed)
    rules = {"found": reader.rules.found, "counted": reader.rules.counted}
    facts = report_facts(generator, reader_fingerprint=reader.fingerprint, **rules)
    return ScenesReport(plan=plan, readings=readings, facts=facts), images


def read_files(
    reader: SceneReader, paths: Sequence[Path], what: str = "", progress: Progress | None = None
) -> list[list[Detection]]:
    """The detections in images of one size."""
    found: list[list[Detection]] = []
    for first in range(0, len(paths), READ):
        some = [np.asarray(decode(path).image.convert("RGB")) for path in paths[first : first + READ]]
        found += reader.read(np.stack(some))
        if progress:
            progress(what, len(found), len(paths))
    return found


def ceiling_of(
    prompts: Sequence[ScenePrompt], reader: SceneReader, real: Path, progress: Progress | None = None
) -> NDArray[np.bool_]:
    """Whether the true scene of each prompt is read right."""
    cache = ImageCache(real)
    place = {key: item for item, key in enumerate(cache.keys)}
    missing = next((prompt.id for prompt in prompts if prompt.id not in place), None)
    if missing is not None:
        raise CogViewError(f"{real}: no picture of the scene {missing}")
    right: list[bool] = []
    for first in range(0, len(prompts), READ):
        some = prompts[first : first + READ]
        seen = reader.read(cache.pixels[[place[prompt.id] for prompt in some]])
        right += [judge(prompt, own, reader.rules).right for prompt, own in zip(some, seen, strict=True)]
        if progress:
            progress("reading true scenes", len(right), len(prompts))
    return np.array(right)


def score(
    prompts: Sequence[ScenePrompt],
    seen: Sequence[Sequence[Detection]],
    rules: Rules,
    ceiling: NDArray[np.bool_] | None = None,
    times: int = 2000,
    seed: int = 0,
) -> dict[str, TaskReading]:
    """The reading of every task that occurs and of ``overall``; prompts are resampled within their tasks."""
    verdicts = [judge(prompt, own, rules) for prompt, own in zip(prompts, seen, strict=True)]
    tasks, right = np.array([prompt.task for prompt in prompts]), np.array([one.right for one in verdicts])
    swapped = zip(prompts, shifted(tasks, seen), strict=True)
    floors = np.array([judge(prompt, own, rules).right for prompt, own in swapped])
    weights = bootstrap_weights(list(tasks), times, seed)
    own_tasks = [task for task in TASKS if (tasks == task).any()]
    samples, bests, found = [], [], dict[str, TaskReading]()
    for task in own_tasks:
        at = tasks == task
        samples.append(weights[:, at] @ right[at] / at.sum())
        bests.append(None if ceiling is None else weights[:, at] @ ceiling[at] / at.sum())
        why = [one.wrong for one, here in zip(verdicts, at, strict=True) if here and one.wrong]
        wrong = {name: why.count(name) for name in sorted(set(why))}
        reading = _task(samples[-1], bests[-1], float(floors[at].mean()), int(at.sum()))
        found[task] = reading.model_copy(update={"wrong": wrong})
    mean = np.mean(samples, 0)
    best = None if ceiling is None else np.mean([own for own in bests if own is not None], 0)
    floor = float(np.mean([own.floor for own in found.values()]))
    return {"overall": _task(mean, best, floor, len(prompts)), **found}


def shifted(tasks: NDArray[np.str_], seen: Sequence[Sequence[Detection]]) -> list[Sequence[Detection]]:
    """For each prompt what was seen in the image of another prompt of its task, half the task further on."""
    found: list[Sequence[Detection]] = [()] * len(seen)
    for task in set(tasks):
        rows = np.flatnonzero(tasks == task).tolist()
        for row, other in zip(rows, np.roll(rows, max(1, len(rows) // 2)).tolist(), strict=True):
            found[row] = seen[other] if other != row else ()
    return found


def _task(
    samples: NDArray[np.float64], best: NDArray[np.float64] | None, floor: float, images: int
) -> TaskReading:
    if best is None or not best.min() > 0:
        return TaskReading(images=images, right=figure(samples), floor=floor)
    return TaskReading(
        images=images,
        right=figure(samples),
        ceiling=float(best[0]),
        of_ceiling=figure(samples / best),
        floor=floor,
    )
