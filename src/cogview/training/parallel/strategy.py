"""The interface between the training loop and the implementations of parallelism."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cogview.training.optim import PhaseOptimizer
from cogview.training.parallel import Parallel
from cogview.training.parallel.ranks import Ranks
from cogview.training.task import Metrics, Task

Sizes = Mapping[str, tuple[torch.Size, torch.dtype]]


class ParallelStrategy:
    """Computes losses and updates weights for the loop; this base class on a single process."""

    def __init__(self, ranks: Ranks, parallel: Parallel) -> None:
        self.ranks, self.parallel = ranks, parallel

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        """Move the model to the device and compile it, before optimizers are built."""
        model.to(self.ranks.device)
        compile(model)

    def prepare(self, model: nn.Module, task: Task, optimizers: Mapping[str, PhaseOptimizer]) -> None:
        """Called once before the first step, after the phases are built. optimizers: by phase."""
        self.model, self.task, self.optimizers = model, task, optimizers

    def loss(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The task's loss of this rank's rows."""
        return self.task.loss(self.model, batch, step, phase)

    def factors(self, weights: Mapping[str, float]) -> dict[str, Tensor]:
        """The factors of this rank's means in the sum over ranks, with one collective; empty for one rank."""
        if self.ranks.world == 1:
            return {}
        local = torch.tensor(list(weights.values()), dtype=torch.float32, device=self.ranks.device)
        factors = local / self.ranks.total(local.clone()).clamp(min=1e-9)
        return dict(zip(weights, factors.unbind(), strict=True))

    @contextmanager
    def gradient_sync(self, last: bool) -> Iterator[None]:
        """Context of a micro-batch's forward and backward pass; ``last``: gradients are exchanged in it."""
        yield

    def backward(self, loss: Tensor, scale: float = 1.0) -> None:
        """Accumulate the gradients of a micro-batch's loss times the loss scale."""
        (loss * scale).backward()  # type: ignore[no-untyped-call]

    can_skip_update: bool = True  # whether an update can be skipped after its loss is known
    keeps_masters: bool = False  # whether the strategy keeps the fp32 masters of fp16 weights

    def gradients(self, optimizer: PhaseOptimizer, scale: float) -> list[Tensor]:
        """A phase's gradients, divided by the loss scale."""
        return optimizer.gradients(scale)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The global gradient norm, the same on every rank."""
        return torch.nn.utils.get_total_norm(gradients)

    def clip(self, parameters: list[nn.Parameter], limit: float, norm: Tensor) -> None:
        """Scale gradients of ``norm`` to at most ``limit``."""
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    def step(self, optimizer: PhaseOptimizer) -> None:
        """Update a phase's weights."""
        optimizer.step()

    def evaluate(self) -> dict[str, float]:
        """The task's metrics, on all ranks."""
        return self.task.evaluate(self.model)

    def after_eval(self) -> None:
        """Called after the model was used without a backward pass."""

    @contextmanager
    def full_model(self) -> Iterator[nn.Module | None]:
        """A context with the unsharded model on rank 0, None on the others; all ranks enter it together."""
        yield self.model if self.ranks.first else None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Weights and optimizer states ("PHASE/NAME:KEY") for a checkpoint."""
        states = {
            f"{phase}/{key}": value
            for phase, optimizer in self.optimizers.items()
            for key, value in optimizer.tensors().items()
        }
        return {"model": self.to_checkpoint(self.weights()), "optimizer": self.to_checkpoint(states)}

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers for a checkpoint: fp32 masters instead of fp16 weights."""
        masters = (optimizer.masters() for optimizer in self.optimizers.values())
        return {
            **self.model.state_dict(),
            **{name: value for named in masters for name, value in named.items()},
        }

    def destinations(self, sizes: Sizes) -> dict[str, dict[str, Tensor]]:
        """The tensors to load a checkpoint into, named as in :meth:`tensors`. sizes: of optimizer states."""
        states: dict[str, Tensor] = {}
        for phase, optimizer in self.optimizers.items():
            prefix = f"{phase}/"
            of_phase = {key.removeprefix(prefix): s for key, s in sizes.items() if key.startswith(prefix)}
            states |= {f"{prefix}{key}": value for key, value in optimizer.empty(of_phase).items()}
        return {"model": self.weights(), "optimizer": states}

    def after_load(self, loaded: dict[str, dict[str, Tensor]]) -> None:
        """Called after a checkpoint has been loaded into the destinations."""
        for optimizer in self.optimizers.values():
            optimizer.publish()

    def to_checkpoint(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights, or tensors of their shapes, as stored in a checkpoint; all ranks call it together."""
        return dict(named)

    def load_buffers(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors to load the result of :meth:`to_checkpoint` into: by default ``named`` itself."""
        return dict(named)

    def from_buffers(self, named: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        """Copy loaded :meth:`load_buffers` to ``named``."""
