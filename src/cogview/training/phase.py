"""One phase of a training step: the parameters that it trains, their optimizer and loss scaler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn

from cogview.training.metrics_file import Window
from cogview.training.optim import PhaseOptimizer
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.precision import ALL_HALF, SCALED, LossScaler
from cogview.training.recipe import Recipe
from cogview.training.task import Task


@dataclass
class Phase:
    """One phase's parameters, optimizer and loss scaler (None but in fp16); ``active`` within a step only.

    ``prefix`` begins the names of its metrics; the first phase has none.
    """

    name: str
    prefix: str
    optimizer: PhaseOptimizer
    scaler: LossScaler | None
    active: bool = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.optimizer.parameters.values())

    @property
    def scale(self) -> float:
        """What a loss is multiplied by before the backward pass."""
        return self.scaler.scale if self.scaler else 1.0

    @property
    def seeks_scale(self) -> bool:
        """Whether the loss scale, if gradients overflow, can still be halved."""
        return self.scaler is not None and self.scaler.scale > self.scaler.minimum

    def update(self, strategy: ParallelStrategy, clip: float | None, window: Window) -> bool:
        """Clip gradients and step; False where they were not finite and the update was left out."""
        norm = strategy.norm(strategy.gradients(self.optimizer, self.scale))
        finite = bool(norm.isfinite())
        if self.scaler:
            self.scaler = self.scaler.update(not finite)
            window.add({f"{self.prefix}loss_scale": self.scaler.scale})
        if finite:
            if clip is not None:
                strategy.clip(list(self.optimizer.updated.values()), clip, norm)
            strategy.step(self.optimizer)
            window.add({f"{self.prefix}grad_norm": norm})
        return finite


def make_phases(task: Task, model: nn.Module, recipe: Recipe, masters_kept: bool = True) -> list[Phase]:
    """The phases of a task; parameters that none of them trains take no gradients from here on.

    masters_kept: in all-fp16 training the fp32 copies are the optimizer's to keep, not the strategy's.
    """
    phases: list[Phase] = []
    for name in task.phases:
        trained = [(key, value) for key, value in task.parameters(model, name) if value.requires_grad]
        half, masters = recipe.precision != "fp32", recipe.precision == ALL_HALF and masters_kept
        optimizer = PhaseOptimizer(trained, task.optimizer(name), task.matrices(model), half, masters)
        scaler = recipe.loss_scaler if recipe.precision in SCALED else None
        phases.append(Phase(name, f"{name}_" if phases else "", optimizer, scaler))
    ids = {id(parameter) for phase in phases for parameter in phase.parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in ids)
    return phases


@contextmanager
def only(phase: Phase, phases: Sequence[Phase]) -> Iterator[None]:
    """Within, only this phase's parameters take gradients."""
    others = [p for other in phases if other is not phase for p in other.parameters]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
