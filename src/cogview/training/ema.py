"""An exponential moving average of the weights, used for evaluation, sampling and export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from cogview.training.optim import PhaseOptimizer, local


class MovingAverage:
    """``average <- decay * average + (1 - decay) * weight`` after every update, in the optimizer's dtype.

    The decay increases with the number of updates n, min(``decay``, (1 + n) / (10 + n)), so that initial
    weights are soon forgotten.
    """

    def __init__(self, optimizer: PhaseOptimizer, decay: float) -> None:
        self.optimizer, self.parameters, self.decay, self.updates = optimizer, optimizer.updated, decay, 0
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        weights = [local(parameter.detach()) for parameter in self.parameters.values()]
        torch._foreach_lerp_([local(value) for value in self.average.values()], weights, 1 - decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages and the number of ``updates``, for a checkpoint."""
        return {**self.average, "updates": torch.tensor(self.updates)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what :meth:`tensors` returned."""
        self.updates = int(tensors["updates"])
        for name, value in self.average.items():
            value.copy_(tensors[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """A context in which the model has the averaged weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            current = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(current)
        self.optimizer.publish()
