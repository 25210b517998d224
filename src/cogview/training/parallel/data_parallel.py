"""Data parallelism with PyTorch's DistributedDataParallel: every rank holds the full model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from cogview.training.optim import PhaseOptimizer
from cogview.training.parallel.strategy import ParallelStrategy
from cogview.training.task import Metrics, Task


class LossModule(nn.Module):
    """A task's loss as the forward pass of a module, which DDP requires."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The loss of this rank's rows, and the metrics to log."""
        return self.task.loss(self.model, batch, step, phase)


class DataParallel(ParallelStrategy):
    """Every rank holds the full model; gradients are averaged during the backward pass."""

    def prepare(self, model: nn.Module, task: Task, optimizers: Mapping[str, PhaseOptimizer]) -> None:
        super().prepare(model, task, optimizers)
        self.wrapped = {
            phase: self._wrap(list(optimizer.parameters.values()), task.has_unused_parameters(phase))
            for phase, optimizer in optimizers.items()
        }

    def _wrap(self, parameters: list[nn.Parameter], unused: bool) -> nn.Module:
        """The loss in a DDP module that averages the gradients of these parameters.

        unused: whether some may have no gradient.
        """
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            for parameter in parameters:
                parameter.requires_grad_(True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch 2.13 is about to rename the argument
                return nn.parallel.DistributedDataParallel(
                    LossModule(self.task, self.model), broadcast_buffers=False, find_unused_parameters=unused
                )
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def loss(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        result: tuple[Tensor, Metrics] | None = self.wrapped[phase](batch, step, phase)
        return result

    @contextmanager
    def gradient_sync(self, last: bool) -> Iterator[None]:
        if last or self.parallel.sync == "every":
            yield
            return
        with ExitStack() as stack:
            for wrapped in self.wrapped.values():
                stack.enter_context(wrapped.no_sync())  # type: ignore[operator]
            yield
