"""One phase of a training step: the parameters that it trains, their optimizer and loss scaler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from cogview.training.metrics_file import Window
from cogview.training.optim import PhaseOptimizer, local
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.precision import LossScaler
from cogview.training.recipe import Recipe
from cogview.training.task import Task


@dataclass
class Phase:
    """One phase's parameters, optimizer and loss scaler (None unless fp16); ``active`` within a step only.

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

    def update(self, strategy: ParallelStrategy, clip: float | None, window: Window) -> bool:
        """Clip gradients and step; False where they were not finite and the update was left out."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.scaler:
            torch._foreach_mul_([local(gradient) for gradient in gradients], 1 / self.scaler.scale)
        norm = strategy.norm(gradients)
        finite = bool(norm.isfinite())
        if self.scaler:
            self.scaler = self.scaler.update(not finite)
            window.add({f"{self.prefix}loss_scale": self.scaler.scale})
        if finite:
            if clip is not None:
                strategy.clip(self.parameters, clip, norm)
            strategy.step(self.optimizer)
            window.add({f"{self.prefix}grad_norm": norm})
        return finite


def make_phases(task: Task, model: nn.Module, recipe: Recipe) -> list[Phase]:
    """The phases of a task; parameters that none of them trains take no gradients from here on."""
    phases: list[Phase] = []
    for name in task.phases:
        trained = [(key, value) for key, value in task.parameters(model, name) if value.requires_grad]
        optimizer = PhaseOptimizer(
            trained, task.optimizer(name), task.matrices(model), recipe.precision != "fp32"
        )
        scaler = recipe.loss_scaler if recipe.precision == "fp16" else None
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
