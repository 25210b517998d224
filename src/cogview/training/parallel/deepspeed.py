"""DeepSpeed's ZeRO-1 to ZeRO-3 behind the same interface (an extra: ``cogview[deepspeed]``).

DeepSpeed keeps weights, gradients and AdamW's moments in flat buffers of its own, and clips and moves in one
step. Checkpoints are ours: tensors whole and by name, each written by one of the ranks, so that they are read
by any strategy on any number of ranks. For that every tensor is gathered in turn; it costs time where FSDP
writes its shards as they are. Evaluation runs on rank 0 alone.

All-fp16 training is DeepSpeed's own ``fp16``, as CogView was released: it keeps the fp32 masters. The loss
scale is the phase's, given to DeepSpeed before each backward pass, so that checkpoints and logs have one.
"""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cogview.errors import CogViewError, TrainingDiverged
from cogview.training.optim import PhaseOptimizer
from cogview.training.parallel import Parallel
from cogview.training.parallel.data_parallel import Objective
from cogview.training.parallel.fsdp import lent
from cogview.training.parallel.ranks import Ranks
from cogview.training.parallel.strategy import ParallelStrategy, Sizes
from cogview.training.precision import ALL_HALF, autocast
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, Task

MOMENTS = ("exp_avg", "exp_avg_sq")


class CastObjective(Objective):
    """DeepSpeed switches autocast off around a module's forward pass; this switches it on again inside."""

    def forward(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        with autocast(self.task.recipe.precision, self.task.device):
            return super().forward(batch, step, phase)


def settings(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe."""
    fp16 = {"enabled": True, "loss_scale": 1.0}  # not dynamic: the phase's scaler overrides it
    return {
        **({"fp16": fp16} if recipe.precision == ALL_HALF else {}),
        "train_micro_batch_size_per_gpu": 1,  # it only counts; batches are the loader's
        "gradient_accumulation_steps": recipe.accumulation,
        "gradient_clipping": recipe.clip or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": recipe.parallel.zero,
            "overlap_comm": False,
            "contiguous_gradients": True,
            "round_robin_gradients": False,
        },
    }


class DeepSpeed(ParallelStrategy):
    """DeepSpeed's engine around the task's loss."""

    leaves_out = False
    keeps_masters = True

    def __init__(self, ranks: Ranks, parallel: Parallel) -> None:
        super().__init__(ranks, parallel)
        if ranks.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        self._twin = copy.deepcopy(model) if self.ranks.first else None
        super().place(model, compile)

    def prepare(self, model: nn.Module, task: Task, optimizers: Mapping[str, PhaseOptimizer]) -> None:
        super().prepare(model, task, optimizers)
        import deepspeed

        self._half = task.recipe.precision == ALL_HALF
        if self._half and not deepspeed.get_accelerator().is_fp16_supported():
            raise CogViewError(
                "precision: DeepSpeed has no fp16-o2 on this device (no fp16 instructions); use fsdp"
            )

        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # or it has the machine's compiler build collectives in shared memory, where gloo will do
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        (phase,) = optimizers.values()
        (inner,) = phase.optimizers
        self._phase, self._inner = next(iter(optimizers)), inner
        self._shapes = {name: value.shape for name, value in model.named_parameters()}
        self._engine, *_ = deepspeed.initialize(
            model=CastObjective(task, model), optimizer=inner, config=settings(task.recipe)
        )
        self._gathered = deepspeed.zero.GatheredParameters

    def loss(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        found: tuple[Tensor, Metrics] | None = self._engine(batch, step, phase)
        return found

    @contextmanager
    def exchanging(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor, scale: float = 1.0) -> None:
        if self._half:
            self._engine.optimizer.override_loss_scale(scale)
        self._engine.backward(loss, scale_wrt_gas=False)

    def gradients(self, optimizer: PhaseOptimizer, scale: float) -> list[Tensor]:
        """None: DeepSpeed has them in buffers of its own, and divides by the scale there."""
        return []

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """Clips and moves the weights as well: DeepSpeed tells the norm no sooner.

        Infinite in all-fp16 training where gradients overflowed and DeepSpeed left the update out.
        """
        self._engine.step()
        norm = torch.as_tensor(self._engine.get_global_grad_norm())
        if not norm.isfinite() and not self._half:
            raise TrainingDiverged(
                "the gradient was not finite, and DeepSpeed has moved the weights by it; "
                "go on from the last checkpoint with --resume, or use parallel.kind fsdp"
            )
        return norm

    def clip(self, parameters: list[nn.Parameter], limit: float, norm: Tensor) -> None:
        """It has been done."""

    def step(self, optimizer: PhaseOptimizer) -> None:
        """It has been done."""

    def evaluate(self) -> dict[str, float]:
        with self.whole() as whole:
            return self.ranks.lead(lambda: self.task.evaluate(whole or self.model))

    @contextmanager
    def whole(self) -> Iterator[nn.Module | None]:
        held = dict(self._twin.named_parameters()) if self._twin is not None else {}
        with torch.no_grad():
            for name, value in self._weights():
                if held:
                    held[name].copy_(value)
        with lent(self._twin, self.model.training, self.ranks.device):
            yield self._twin

    # ------------------------------------------------------------------------------------------ checkpoints

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight, whole; valid until the next."""
        for name, parameter in self.model.named_parameters():
            with self._gathered([parameter]):
                yield name, parameter.detach()

    def _masters(self) -> Iterator[tuple[str, Tensor]]:
        """As :meth:`_weights`, but what is trained as DeepSpeed updates it, in fp32."""
        from deepspeed.utils import safe_get_full_fp32_param

        if not self._half:
            yield from self._weights()
            return
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield name, safe_get_full_fp32_param(parameter).view(self._shapes[name])
            else:
                with self._gathered([parameter]):
                    yield name, parameter.detach()

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Whole tensors, each on one rank; all ranks call it together."""
        rank, world = self.ranks.rank, self.ranks.world
        found: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for number, (name, value) in enumerate(self._masters()):
            if number % world == rank:
                found["model"][name] = value.cpu().clone()
        if not self._inner.state:
            return found
        self._link()
        step = next(state["step"] for state in self._inner.state.values() if "step" in state)
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            moments = [self._moment(parameter, key) for key in MOMENTS] if parameter.requires_grad else []
            if moments and number % world == rank:
                start = f"{self._phase}/{name}"
                own = zip(MOMENTS, (value.cpu() for value in moments), strict=True)
                found["optimizer"] |= {f"{start}:{key}": value for key, value in own}
                found["optimizer"][f"{start}:step"] = step.detach().cpu().clone()
        return found

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        value: Tensor = safe_get_full_optimizer_state(parameter, key)
        return value

    def places(self, sizes: Sizes) -> dict[str, dict[str, Tensor]]:
        return {
            "model": {name: torch.empty(shape) for name, shape in self._shapes.items()},
            "optimizer": {key: torch.empty(size, dtype=dtype) for key, (size, dtype) in sizes.items()},
        }

    @torch.no_grad()
    def filled(self, places: dict[str, dict[str, Tensor]]) -> None:
        steps = [value for key, value in places["optimizer"].items() if key.endswith(":step")]
        if steps:
            self._begin_moments(steps[0])
        for name, parameter in self.model.named_parameters():
            value = places["model"][name].to(self.ranks.device)
            with self._gathered([parameter], modifier_rank=0):
                parameter.data.copy_(value)
            self._put(parameter, value, None)
            for key in MOMENTS if steps and parameter.requires_grad else ():
                self._put(parameter, places["optimizer"][f"{self._phase}/{name}:{key}"], key)

    def _begin_moments(self, step: Tensor) -> None:
        """The moments as AdamW makes them at its first step, to be filled."""
        zero = self._engine.optimizer
        flat = (
            zero.single_partition_of_fp32_groups
            if self.parallel.zero < 3
            else zero.fp32_partitioned_groups_flat
        )
        for buffer in flat:
            moments = {key: torch.zeros_like(buffer) for key in MOMENTS}
            self._inner.state[buffer] = {"step": step.clone().to(buffer.device), **moments}
        self._link()

    def _link(self) -> None:
        """Have ZeRO-1 and 2 find each weight's moments; they look by themselves after the first step only."""
        if self.parallel.zero < 3:
            self._engine.optimizer._hp_optimizer_states_linked = False
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _put(self, parameter: nn.Parameter, value: Tensor, key: str | None) -> None:
        """Copy this rank's part of a weight (key None) or a moment into DeepSpeed's flat buffer."""
        if not parameter.requires_grad:
            return
        if self.parallel.zero < 3:
            parameter.set_full_hp_param(value, key)  # type: ignore[attr-defined]
            return
        part, _ = self._engine.optimizer._get_fp32_opt_state_partition(parameter, False, key)
        padded = value.new_zeros(part.numel() * self.ranks.world)  # as it was shared out
        padded[: value.numel()] = value.flatten()
        part.copy_(padded.view(self.ranks.world, -1)[self.ranks.rank])
