"""Measure the time of a training step on this machine, with the training loop on random samples.

If a step of the full batch is slow, two smaller batches are timed to separate the time per row from the
constant time per step (the optimizer).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from cogview.data.loader import ImageBatch, TokenBatch
from cogview.sequences import SequenceFormat
from cogview.training.init_checkpoint import InitCheckpoint, find_init_checkpoint
from cogview.training.metrics_file import MetricsFile
from cogview.training.recipe import Recipe
from cogview.training.task import State, Task
from cogview.training.tasks.image_tokenizer import ImageTokenizerRecipe, ImageTokenizerTask
from cogview.training.tasks.transformer import TransformerTask, make_batch
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Trainer

STEPS = 3  # timed, after one that is not
SECONDS = 3.0  # slower steps are timed with fewer rows
FEWEST = 4  # rows


class RandomTokens(TransformerTask):
    """The transformer's task on random sequences of one length; captions of ``text`` tokens."""

    def __init__(self, recipe: TransformerRecipe, format: SequenceFormat, text: int) -> None:
        super().__init__(recipe)
        self.__dict__ |= {"format": format, "sampler": None}
        self.text = text

    @property
    def start(self) -> InitCheckpoint:
        """The model in ``init``, without checking the data's tokenizers."""
        assert self.recipe.init is not None
        return find_init_checkpoint(self.recipe.init)

    def first_losses(self, model: nn.Module) -> None:  # type: ignore[override]
        """None: losses on random tokens are meaningless."""
        return None

    def loader(self, state: State | None, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, State]]:
        rows, ids = self.recipe.batch_size, self.format.vocabulary
        generator = torch.Generator().manual_seed(0)
        while True:
            texts = torch.randint(ids.text_pieces, (rows, self.text), generator=generator)
            codes = torch.randint(ids.image_codes, (rows, self.format.codes), generator=generator)
            batch = TokenBatch(texts=texts.tolist(), codes=codes, items=list(range(rows)))
            yield make_batch(self.format, batch, self.recipe.pad_multiple), {}


class RandomImages(ImageTokenizerTask):
    """The image tokenizer's task on noise, after its warm-up."""

    cache = None  # type: ignore[assignment]

    def loader(
        self, state: State | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[ImageBatch, State]]:
        rows, side = self.recipe.batch_size, self.recipe.model.image_size
        generator = torch.Generator().manual_seed(0)
        while True:
            images = torch.randint(256, (rows, 3, side, side), generator=generator, dtype=torch.uint8)
            yield ImageBatch(images=images, items=list(range(rows)), whole=rows), {}

    def after_step(self, model: nn.Module, step: int) -> dict[str, float | Tensor]:
        return {}


def transformer_seconds(recipe: TransformerRecipe, format: SequenceFormat, text: int) -> float:
    """Seconds per update of this recipe, with captions of ``text`` tokens."""
    task: Any = RandomTokens
    return _seconds(lambda changed: task(changed, format, text), recipe)


def tokenizer_seconds(recipe: ImageTokenizerRecipe) -> float:
    """Seconds per update of this recipe."""
    return _seconds(RandomImages, recipe.model_copy(update={"warmup_steps": 0}))


def _seconds(make: Callable[[Any], Any], recipe: Recipe) -> float:
    """Seconds per update, of all its micro-batches and the optimizer."""
    rows = recipe.batch_size
    first = _step(make, recipe, min(rows, FEWEST), 1)
    if rows <= FEWEST and recipe.accumulation == 1:
        return first
    more = max(FEWEST + 1, min(rows, int(FEWEST * SECONDS / first)))
    second = _step(make, recipe, more, STEPS)
    if more == rows and recipe.accumulation == 1:
        return second
    per_row = max(0.0, (second - first) / (more - FEWEST))
    return first + per_row * (rows * recipe.accumulation - FEWEST)


def _step(make: Callable[[Any], Any], recipe: Recipe, rows: int, count: int) -> float:
    """The median time of ``count`` steps of ``rows`` rows, after a warm-up step."""
    changed = recipe.model_copy(
        update={"batch_size": rows, "accumulation": 1, "trackers": (), "compile": False}
    )
    task: Task = make(changed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(task, changed, Path(folder), Console(quiet=True))
        batches = task.loader(None)
        trainer.train_step(batches)
        times = []
        for _ in range(count):
            start = time.perf_counter()
            trainer.train_step(batches)
            times.append(time.perf_counter() - start)
        trainer.metrics.close()
    return statistics.median(times)


def last_evaluations(work: Path) -> dict[str, float]:
    """The last evaluation and the minimum loss of both runs in a work directory, by name."""
    metrics: dict[str, float] = {}
    for run in ("image_tokenizer", "transformer"):
        file = MetricsFile(work / run / "metrics.jsonl")
        lines = file.lines() if file.path.exists() else []
        evaluations = [line for line in lines if line["kind"] == "evaluate"]
        losses = [float(line["loss"]) for line in evaluations if "loss" in line]
        metrics.update({f"{run}_least_loss": min(losses)} if losses else {})
        for name, value in (evaluations[-1] if evaluations else {}).items():
            if name not in ("kind", "step", "time") and isinstance(value, int | float):
                metrics[f"{run}_{name}"] = float(value)
    return metrics
