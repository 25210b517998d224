"""Speed of generation: seconds to load the model, for the first image, and for batches of images."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from cogview import from_pretrained as load
from cogview.config import Config
from cogview.evaluation.plans import SpeedPlan
from cogview.evaluation.reports import versions
from cogview.types import Precision

Progress = Callable[[str, int, int], None]


class Timing(Config):
    """One batch size: seconds (median, fastest, slowest), processor seconds (median), and throughput."""

    pictures: int
    seconds: float
    fastest: float
    slowest: float
    processor: float
    pictures_per_minute: float
    tokens_per_second: float


class SpeedReport(Config):
    """All timings of one model on one machine; ``tokens``: tokens per image."""

    format: Literal[1] = 1
    kind: Literal["speed"] = "speed"
    plan: SpeedPlan
    model: str
    model_hash: str
    precision: str
    device: str
    threads: int
    cores: int
    tokens: int
    ready: float
    first: float
    timings: tuple[Timing, ...]
    versions: dict[str, str]


def measure_speed(
    name: str,
    plan: SpeedPlan,
    precision: Precision = "fp32",
    progress: Progress | None = None,
    device: str | None = None,
) -> SpeedReport:
    """Load the family ``name`` and time it; raises the CogViewErrors of loading and generation."""
    started = time.perf_counter()
    model = load(name, precision=precision, device=device)
    ready = time.perf_counter() - started
    image = model.generate(plan.prompt, n=1, seed=plan.seed)[0]
    first = time.perf_counter() - started - ready
    tokens, timings = len(image.codes), list[Timing]()
    for number, batch in enumerate(plan.batches):
        runs = []
        for repeat in range(plan.repeats):
            wall, processor = time.perf_counter(), time.process_time()
            model.generate(plan.prompt, n=batch, seed=plan.seed + repeat)
            runs.append((time.perf_counter() - wall, time.process_time() - processor))
        timings.append(timing(batch, tokens, runs))
        if progress:
            progress("timing", number + 1, len(plan.batches))
    return SpeedReport(
        plan=plan,
        model=model.bundle.config.name,
        model_hash=model.model_hash,
        precision=precision,
        device=str(next(model.image_tokenizer.parameters()).device),
        threads=torch.get_num_threads(),
        cores=os.cpu_count() or 1,
        tokens=tokens,
        ready=ready,
        first=first,
        timings=tuple(timings),
        versions=versions(),
    )


def timing(images: int, tokens: int, runs: Sequence[tuple[float, float]]) -> Timing:
    """Summarize runs (seconds, processor seconds), each of ``images`` images of ``tokens`` tokens."""
    walls, processors = zip(*runs, strict=True)
    seconds = statistics.median(walls)
    return Timing(
        pictures=images,
        seconds=seconds,
        fastest=min(walls),
        slowest=max(walls),
        processor=statistics.median(processors),
        pictures_per_minute=60 * images / seconds,
        tokens_per_second=images * tokens / seconds,
    )
