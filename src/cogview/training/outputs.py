"""The outputs of a run besides checkpoints: evaluations, samples, plots and the exported model."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from cogview.errors import TrainingDiverged
from cogview.files import replace_directory
from cogview.training.divergence import bad_weight
from cogview.training.ema import MovingAverage
from cogview.training.metrics_file import MetricsFile, plot_losses
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.precision import autocast
from cogview.training.rng import preserved
from cogview.training.task import Task

PLOT_SECONDS = 60.0  # minimum time between plots, which take a moment


class Outputs:
    """Writes the outputs with the averaged weights, if any, without changing the model or the generators."""

    def __init__(
        self,
        directory: Path,
        task: Task,
        model: nn.Module,
        strategy: ParallelStrategy,
        average: MovingAverage | None,
        metrics: MetricsFile,
        say: Callable[[str], None],
    ) -> None:
        self.directory, self.task, self.model, self.strategy = directory, task, model, strategy
        self.average, self.metrics, self.say = average, metrics, say
        self.ranks, self._plotted_at = strategy.ranks, time.monotonic()

    def evaluate(self, step: int) -> None:
        """Log the task's metrics on held-out data."""
        with self._evaluating():
            metrics = self.strategy.evaluate()
        if metrics and self.ranks.first:
            self.metrics.append("evaluate", step, metrics)
            text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self.say(f"step {step}  {text}")

    def sample(self, step: int) -> None:
        """Write the task's samples to ``samples/``."""
        with self._evaluating(), self.strategy.full_model() as model:
            self.ranks.on_first(lambda: self._sample(model, step))

    def _sample(self, model: nn.Module | None, step: int) -> None:
        assert model is not None
        folder = self.directory / "samples"
        folder.mkdir(exist_ok=True)
        before = set(folder.iterdir())
        self.task.samples(model, folder, step)
        for path in sorted(set(folder.iterdir()) - before):
            self.say(f"step {step}  samples in {path}")

    def export(self, step: int) -> None:
        """Write ``model/`` and replace the previous one atomically."""
        swapped = self.average.swapped_in() if self.average else nullcontext()
        with swapped, torch.no_grad(), self.strategy.full_model() as model:
            self.ranks.on_first(lambda: self._write_model(model, step))

    def _write_model(self, model: nn.Module | None, step: int) -> None:
        assert model is not None
        bad = bad_weight(model)
        if bad is not None:
            raise TrainingDiverged(
                f"step {step}: {bad} contains values that are not finite or too large to be stored; no "
                "model was exported; lower optimizer.lr"
            )
        part, final = self.directory / "model.part", self.directory / "model"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        self.task.export(model, part)
        for old in replace_directory(part, final):
            shutil.rmtree(old, ignore_errors=True)

    def plot(self, last: bool) -> None:
        """Plot the losses if matplotlib is installed; unless it is the ``last`` plot, not too often."""
        if last or time.monotonic() - self._plotted_at > PLOT_SECONDS:
            self._plotted_at = time.monotonic()
            if self.ranks.first and find_spec("matplotlib"):
                plot_losses(self.metrics.path, self.directory / "plots" / "loss.png")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """A context in eval mode, without gradients and with averaged weights; restores all on exit."""
        swapped = self.average.swapped_in() if self.average else nullcontext()
        training = self.model.training
        self.model.eval()
        precision, device = self.task.recipe.precision, self.ranks.device
        try:
            with preserved(), torch.no_grad(), swapped, autocast(precision, device):
                yield
                self.strategy.after_eval()
        finally:
            self.model.train(training)
