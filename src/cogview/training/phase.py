"""A phase of a training step: the parameters it trains, their optimizer and loss scaler."""

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
    """Parameters, optimizer and loss scaler (only in fp16) of a phase; ``active`` is set during a step.

    ``prefix``: prefix of its metrics' names; the first phase has none.
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
        """The factor on the loss before the backward pass."""
        return self.scaler.scale if self.scaler else 1.0

    @property
    def seeks_scale(self) -> bool:
        """Whether the loss scale can still be halved if gradients overflow."""
        return self.scaler is not None and self.scaler.scale > self.scaler.minimum

    def update(self, strategy: ParallelStrategy, clip: float | None, window: Window) -> bool:
        """Clip gradients and step; False if they were not finite and the update was skipped."""
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


def make_phases(task: Task, model: nn.Module, recipe: Recipe, masters: bool = True) -> list[Phase]:
    """The phases of a task; parameters that none of them trains are frozen.

    masters: in all-fp16 training the optimizer keeps the fp32 masters, not the parallel strategy.
    """
    phases: list[Phase] = []
    for name in task.phases:
        trained = [(key, value) for key, value in task.parameters(model, name) if value.requires_grad]
        half, with_masters = recipe.precision != "fp32", recipe.precision == ALL_HALF and masters
        optimizer = PhaseOptimizer(trained, task.optimizer(name), task.matrices(model), half, with_masters)
        scaler = recipe.loss_scaler if recipe.precision in SCALED else None
        phases.append(Phase(name, f"{name}_" if phases else "", optimizer, scaler))
    ids = {id(parameter) for phase in phases for parameter in phase.parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in ids)
    return phases


@contextmanager
def only(phase: Phase, phases: Sequence[Phase]) -> Iterator[None]:
    """A context in which only this phase's parameters require gradients."""
    others = [p for other in phases if other is not phase for p in other.parameters]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
