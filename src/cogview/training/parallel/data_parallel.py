"""Data parallelism by PyTorch's DistributedDataParallel: every rank holds the whole model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from cogview.training.optim import PhaseOptimizer
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.task import Metrics, Task


class Objective(nn.Module):
    """A task's loss as a module's forward pass, which is what DDP watches."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The loss of the rank's rows, and what to log."""
        return self.task.loss(self.model, batch, step, phase)


class DataParallel(ParallelStrategy):
    """Every rank has the whole model; gradients are averaged while the backward pass goes on."""

    def prepare(self, model: nn.Module, task: Task, optimizers: Mapping[str, PhaseOptimizer]) -> None:
        super().prepare(model, task, optimizers)
        self.wrapped = {
            phase: self._watched(list(optimizer.parameters.values()), task.idle(phase))
            for phase, optimizer in optimizers.items()
        }

    def _watched(self, parameters: list[nn.Parameter], idle: bool) -> nn.Module:
        """The loss; DDP averages the gradients of these parameters. idle: of some there may be none."""
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 is about to rename the argument
                return nn.parallel.DistributedDataParallel(
                    Objective(self.task, self.model), broadcast_buffers=False, find_unused_parameters=idle
                )
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def loss(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        found: tuple[Tensor, Metrics] | None = self.wrapped[phase](batch, step, phase)
        return found

    @contextmanager
    def exchanging(self, last: bool) -> Iterator[None]:
        if last or self.parallel.sync == "every":
            yield
            return
        with ExitStack() as stack:
            for wrapped in self.wrapped.values():
                stack.enter_context(wrapped.no_sync())  # type: ignore[operator]
            yield
