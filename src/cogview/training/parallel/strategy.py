"""The interface between the training loop and a way to spread a model over processes."""

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
    """How the loop computes losses and moves weights; this one for a process alone."""

    def __init__(self, ranks: Ranks, parallel: Parallel) -> None:
        self.ranks, self.parallel = ranks, parallel

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        """Put the model on the device and compile it, before any optimizer sees its parameters."""
        model.to(self.ranks.device)
        compile(model)

    def prepare(self, model: nn.Module, task: Task, optimizers: Mapping[str, PhaseOptimizer]) -> None:
        """Called once before the first step, when it is settled what is trained. optimizers: by phase."""
        self.model, self.task, self.optimizers = model, task, optimizers

    def loss(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The task's loss of this rank's rows."""
        return self.task.loss(self.model, batch, step, phase)

    def factors(self, shares: Mapping[str, float]) -> dict[str, Tensor]:
        """What this rank's means count in the sum over ranks; one collective. Empty where there is one."""
        if self.ranks.world == 1:
            return {}
        mine = torch.tensor(list(shares.values()), dtype=torch.float32, device=self.ranks.device)
        parts = mine / self.ranks.total(mine.clone()).clamp(min=1e-9)
        return dict(zip(shares, parts.unbind(), strict=True))

    @contextmanager
    def exchanging(self, last: bool) -> Iterator[None]:
        """Around a micro-batch's forward and backward pass; ``last``: gradients are exchanged in it."""
        yield

    def backward(self, loss: Tensor, scale: float = 1.0) -> None:
        """Add the gradients of a micro-batch's loss times the loss scale."""
        (loss * scale).backward()  # type: ignore[no-untyped-call]

    leaves_out: bool = True  # whether an update can be left out once its loss is known
    keeps_masters: bool = False  # whether fp32 copies of fp16 weights are its own to keep

    def gradients(self, optimizer: PhaseOptimizer, scale: float) -> list[Tensor]:
        """A phase's gradients without the loss scale."""
        return optimizer.gradients(scale)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The norm of all gradients together, the same on every rank."""
        return torch.nn.utils.get_total_norm(gradients)

    def clip(self, parameters: list[nn.Parameter], limit: float, norm: Tensor) -> None:
        """Scale gradients of ``norm`` to at most ``limit``."""
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)

    def step(self, optimizer: PhaseOptimizer) -> None:
        """Move a phase's weights."""
        optimizer.step()

    def evaluate(self) -> dict[str, float]:
        """The task's measurements, on all ranks."""
        return self.task.evaluate(self.model)

    def after_eval(self) -> None:
        """Called after the model was used without a backward pass."""

    @contextmanager
    def whole(self) -> Iterator[nn.Module | None]:
        """Within, the model with all its weights on rank 0, None elsewhere; all ranks enter together."""
        yield self.model if self.ranks.first else None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Weights and the optimizers' state ("PHASE/NAME:KEY") as a checkpoint holds them."""
        held = {
            f"{phase}/{key}": value
            for phase, optimizer in self.optimizers.items()
            for key, value in optimizer.tensors().items()
        }
        return {"model": self.stored(self.weights()), "optimizer": self.stored(held)}

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers as a checkpoint keeps them: fp32 masters where the model has fp16 copies."""
        masters = (optimizer.masters() for optimizer in self.optimizers.values())
        return {
            **self.model.state_dict(),
            **{name: value for held in masters for name, value in held.items()},
        }

    def places(self, sizes: Sizes) -> dict[str, dict[str, Tensor]]:
        """Where a checkpoint's tensors go, named as in :meth:`tensors`. sizes: of the optimizers' state."""
        held: dict[str, Tensor] = {}
        for phase, optimizer in self.optimizers.items():
            start = f"{phase}/"
            own = {key.removeprefix(start): size for key, size in sizes.items() if key.startswith(start)}
            held |= {f"{start}{key}": value for key, value in optimizer.empty(own).items()}
        return {"model": self.weights(), "optimizer": held}

    def filled(self, places: dict[str, dict[str, Tensor]]) -> None:
        """Called when the places are filled."""
        for optimizer in self.optimizers.values():
            optimizer.publish()

    def stored(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights, or what has their shapes, as a checkpoint holds them; all ranks call it together."""
        return dict(named)

    def blank(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where a checkpoint's tensors go that :meth:`stored` gave: by default these themselves."""
        return dict(named)

    def settle(self, named: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
        """Have ``named`` hold what was put in the places :meth:`blank` gave."""
