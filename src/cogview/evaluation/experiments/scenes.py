"""Does an image show the scene of its prompt? GenEval's six tasks (Ghosh et al., 2023).

Prompts combine things as no training image does (``prompts/scenes.jsonl``); a reader of scenes detects things
in the images, and the rules of ``metrics/scene_rules.py`` judge them. The ceiling is the figures of the
prompts' true scenes, the floor those of images of other prompts of the same task.
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
    """The share of right images of one task (or ``overall``, the mean of tasks), its ceiling and its floor.

    wrong: number of wrong images by reason.
    """

    images: int
    right: Figure
    ceiling: float | None = None
    of_ceiling: Figure | None = None
    floor: float
    wrong: dict[str, int] = Field(default_factory=dict)


class ScenesReport(Config):
    """The results of one run, by language and task."""

    format: Literal[1] = 1
    plan: ScenesPlan
    readings: dict[str, dict[str, TaskReading]]
    facts: dict[str, str | int | float]


def select_prompts(prompts: Sequence[ScenePrompt], count: int | None) -> list[ScenePrompt]:
    """About ``count`` prompts, equally many of every task and evenly spaced within it, in their order."""
    if count is None or count >= len(prompts):
        return list(prompts)
    selected: list[ScenePrompt] = []
    for index, task in enumerate(TASKS):
        of_task = [prompt for prompt in prompts if prompt.task == task]
        share = min(len(of_task), (count + index) // len(TASKS))
        selected += [of_task[i * len(of_task) // share] for i in range(share)]
    return selected


def evaluate_scenes(
    plan: ScenesPlan,
    reader: SceneReader,
    generator: ImageGenerator,
    work: Path,
    real: Path | None = None,
    rank: tuple[int, int] = WHOLE,
    progress: Progress | None = None,
) -> tuple[ScenesReport, dict[str, list[Path]]] | None:
    """Generate, detect and judge; the report and each language's images, or None while ranks are missing.

    real: an image cache of the prompts' true scenes, for the ceiling.

    Raises:
        CogViewError: files cannot be read or written, or a true scene is missing.
    """
    prompts, images = select_prompts(scene_prompts(), plan.count), dict[str, list[Path]]()
    for language in plan.languages:
        texts, what = [getattr(prompt, language) for prompt in prompts], f"generating {language}"
        paths = generate_images(texts, generator, work, plan, rank, what, progress)
        images |= {} if paths is None else {language: paths}
    if len(images) < len(plan.languages):
        return None
    ceiling = ceiling_of(prompts, reader, real, progress) if real else None
    readings = {}
    for name, paths in images.items():
        detections = read_files(reader, paths, f"reading {name}", progress)
        readings[name] = score(prompts, detections, reader.rules, ceiling, plan.bootstrap, plan.seed)
    rules = {"found": reader.rules.found, "counted": reader.rules.counted}
    facts = report_facts(generator, reader_fingerprint=reader.fingerprint, **rules)
    return ScenesReport(plan=plan, readings=readings, facts=facts), images


def read_files(
    reader: SceneReader, paths: Sequence[Path], what: str = "", progress: Progress | None = None
) -> list[list[Detection]]:
    """The detections in image files, all of one size."""
    detections: list[list[Detection]] = []
    for first in range(0, len(paths), READ):
        batch = [np.asarray(decode(path).image.convert("RGB")) for path in paths[first : first + READ]]
        detections += reader.read(np.stack(batch))
        if progress:
            progress(what, len(detections), len(paths))
    return detections


def ceiling_of(
    prompts: Sequence[ScenePrompt], reader: SceneReader, real: Path, progress: Progress | None = None
) -> NDArray[np.bool_]:
    """Whether the true scene of each prompt is judged right."""
    cache = ImageCache(real)
    items = {key: item for item, key in enumerate(cache.keys)}
    missing = next((prompt.id for prompt in prompts if prompt.id not in items), None)
    if missing is not None:
        raise CogViewError(f"{real}: no image of the scene {missing}")
    right: list[bool] = []
    for first in range(0, len(prompts), READ):
        batch = prompts[first : first + READ]
        detections = reader.read(cache.pixels[[items[prompt.id] for prompt in batch]])
        right += [judge(p, seen, reader.rules).right for p, seen in zip(batch, detections, strict=True)]
        if progress:
            progress("reading true scenes", len(right), len(prompts))
    return np.array(right)


def score(
    prompts: Sequence[ScenePrompt],
    detections: Sequence[Sequence[Detection]],
    rules: Rules,
    ceiling: NDArray[np.bool_] | None = None,
    times: int = 2000,
    seed: int = 0,
) -> dict[str, TaskReading]:
    """The figures of every task that occurs and of ``overall``; prompts are resampled within their tasks."""
    verdicts = [judge(prompt, seen, rules) for prompt, seen in zip(prompts, detections, strict=True)]
    tasks, right = np.array([prompt.task for prompt in prompts]), np.array([v.right for v in verdicts])
    swapped = zip(prompts, shifted(tasks, detections), strict=True)
    floors = np.array([judge(prompt, seen, rules).right for prompt, seen in swapped])
    weights = bootstrap_weights(list(tasks), times, seed)
    present = [task for task in TASKS if (tasks == task).any()]
    samples, bests, readings = [], [], dict[str, TaskReading]()
    for task in present:
        mask = tasks == task
        samples.append(weights[:, mask] @ right[mask] / mask.sum())
        bests.append(None if ceiling is None else weights[:, mask] @ ceiling[mask] / mask.sum())
        reasons = [v.wrong for v, in_task in zip(verdicts, mask, strict=True) if in_task and v.wrong]
        wrong = {name: reasons.count(name) for name in sorted(set(reasons))}
        reading = _task(samples[-1], bests[-1], float(floors[mask].mean()), int(mask.sum()))
        readings[task] = reading.model_copy(update={"wrong": wrong})
    mean = np.mean(samples, 0)
    best = None if ceiling is None else np.mean([values for values in bests if values is not None], 0)
    floor = float(np.mean([reading.floor for reading in readings.values()]))
    return {"overall": _task(mean, best, floor, len(prompts)), **readings}


def shifted(tasks: NDArray[np.str_], detections: Sequence[Sequence[Detection]]) -> list[Sequence[Detection]]:
    """For each prompt the detections of another prompt of its task, cyclically shifted by half the task."""
    swapped: list[Sequence[Detection]] = [()] * len(detections)
    for task in set(tasks):
        rows = np.flatnonzero(tasks == task).tolist()
        for row, other in zip(rows, np.roll(rows, max(1, len(rows) // 2)).tolist(), strict=True):
            swapped[row] = detections[other] if other != row else ()
    return swapped


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
