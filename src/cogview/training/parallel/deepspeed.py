"""DeepSpeed's ZeRO-1 to ZeRO-3 with the same interface (an extra: ``cogview[deepspeed]``).

DeepSpeed keeps weights, gradients and AdamW's moments in its own flat buffers, and clips and updates in one
step. Checkpoints have our format: unsharded tensors by name, each written by one of the ranks, so that any
strategy reads them on any number of ranks. For this every tensor is gathered in turn, which takes longer than
writing shards as FSDP does. Evaluation runs only on rank 0.

All-fp16 training uses DeepSpeed's ``fp16``, as in CogView's release, which keeps the fp32 masters. The loss
scale is the phase's, passed to DeepSpeed before each backward pass, so that checkpoints and logs contain it.
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
from cogview.training.parallel.data_parallel import LossModule
from cogview.training.parallel.fsdp import on_device
from cogview.training.parallel.ranks import Ranks
from cogview.training.parallel.strategy import ParallelStrategy, Sizes
from cogview.training.precision import ALL_HALF, autocast
from cogview.training.recipe import Recipe
from cogview.training.task import Metrics, Task

MOMENTS = ("exp_avg", "exp_avg_sq")


class AutocastLossModule(LossModule):
    """A loss module that enables autocast, which DeepSpeed disables around a module's forward pass."""

    def forward(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        with autocast(self.task.recipe.precision, self.task.device):
            return super().forward(batch, step, phase)


def settings(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's configuration for a recipe."""
    fp16 = {"enabled": True, "loss_scale": 1.0}  # static: the phase's scaler overrides it
    return {
        **({"fp16": fp16} if recipe.precision == ALL_HALF else {}),
        "train_micro_batch_size_per_gpu": 1,  # only used for counting; the loader makes the batches
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

    can_skip_update = False
    keeps_masters = True

    def __init__(self, ranks: Ranks, parallel: Parallel) -> None:
        super().__init__(ranks, parallel)
        if ranks.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        self._full_copy = copy.deepcopy(model) if self.ranks.first else None
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
        # otherwise it compiles collectives in shared memory; gloo suffices
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        (phase,) = optimizers.values()
        (inner,) = phase.optimizers
        self._phase, self._inner = next(iter(optimizers)), inner
        self._shapes = {name: value.shape for name, value in model.named_parameters()}
        self._engine, *_ = deepspeed.initialize(
            model=AutocastLossModule(task, model), optimizer=inner, config=settings(task.recipe)
        )
        self._gathered = deepspeed.zero.GatheredParameters

    def loss(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        result: tuple[Tensor, Metrics] | None = self._engine(batch, step, phase)
        return result

    @contextmanager
    def gradient_sync(self, last: bool) -> Iterator[None]:
        self._engine.set_gradient_accumulation_boundary(last)
        yield

    def backward(self, loss: Tensor, scale: float = 1.0) -> None:
        if self._half:
            self._engine.optimizer.override_loss_scale(scale)
        self._engine.backward(loss, scale_wrt_gas=False)

    def gradients(self, optimizer: PhaseOptimizer, scale: float) -> list[Tensor]:
        """Empty: DeepSpeed keeps them in its buffers and divides them by the scale there."""
        return []

    def norm(self, gradients: list[Tensor]) -> Tensor:
        """The gradient norm; also clips and updates the weights, since DeepSpeed only then returns the norm.

        Infinite in all-fp16 training if gradients overflowed and DeepSpeed skipped the update.
        """
        self._engine.step()
        norm = torch.as_tensor(self._engine.get_global_grad_norm())
        if not norm.isfinite() and not self._half:
            raise TrainingDiverged(
                "the gradient was not finite, and DeepSpeed has updated the weights with it; "
                "continue from the last checkpoint with --resume, or use parallel.kind fsdp"
            )
        return norm

    def clip(self, parameters: list[nn.Parameter], limit: float, norm: Tensor) -> None:
        """Done in :meth:`norm`."""

    def step(self, optimizer: PhaseOptimizer) -> None:
        """Done in :meth:`norm`."""

    def evaluate(self) -> dict[str, float]:
        with self.full_model() as model:
            return self.ranks.on_first(lambda: self.task.evaluate(model or self.model))

    @contextmanager
    def full_model(self) -> Iterator[nn.Module | None]:
        weights = dict(self._full_copy.named_parameters()) if self._full_copy is not None else {}
        with torch.no_grad():
            for name, value in self._weights():
                if weights:
                    weights[name].copy_(value)
        with on_device(self._full_copy, self.model.training, self.ranks.device):
            yield self._full_copy

    # ------------------------------------------------------------------------------------------ checkpoints

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        """All weights, unsharded; each is valid until the next one."""
        for name, parameter in self.model.named_parameters():
            with self._gathered([parameter]):
                yield name, parameter.detach()

    def _masters(self) -> Iterator[tuple[str, Tensor]]:
        """All weights as in :meth:`_weights`, but trained ones as DeepSpeed's fp32 masters."""
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
        """Unsharded tensors, each on one rank; all ranks call it together."""
        rank, world = self.ranks.rank, self.ranks.world
        tensors: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}}
        for number, (name, value) in enumerate(self._masters()):
            if number % world == rank:
                tensors["model"][name] = value.cpu().clone()
        if not self._inner.state:
            return tensors
        self._link()
        step = next(state["step"] for state in self._inner.state.values() if "step" in state)
        for number, (name, parameter) in enumerate(self.model.named_parameters()):
            moments = [self._moment(parameter, key) for key in MOMENTS] if parameter.requires_grad else []
            if moments and number % world == rank:
                prefix = f"{self._phase}/{name}"
                pairs = zip(MOMENTS, (value.cpu() for value in moments), strict=True)
                tensors["optimizer"] |= {f"{prefix}:{key}": value for key, value in pairs}
                tensors["optimizer"][f"{prefix}:step"] = step.detach().cpu().clone()
        return tensors

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state

        value: Tensor = safe_get_full_optimizer_state(parameter, key)
        return value

    def destinations(self, sizes: Sizes) -> dict[str, dict[str, Tensor]]:
        return {
            "model": {name: torch.empty(shape) for name, shape in self._shapes.items()},
            "optimizer": {key: torch.empty(size, dtype=dtype) for key, (size, dtype) in sizes.items()},
        }

    @torch.no_grad()
    def after_load(self, loaded: dict[str, dict[str, Tensor]]) -> None:
        steps = [value for key, value in loaded["optimizer"].items() if key.endswith(":step")]
        if steps:
            self._create_moments(steps[0])
        for name, parameter in self.model.named_parameters():
            value = loaded["model"][name].to(self.ranks.device)
            with self._gathered([parameter], modifier_rank=0):
                parameter.data.copy_(value)
            self._put(parameter, value, None)
            for key in MOMENTS if steps and parameter.requires_grad else ():
                self._put(parameter, loaded["optimizer"][f"{self._phase}/{name}:{key}"], key)

    def _create_moments(self, step: Tensor) -> None:
        """Create the moments as AdamW does in its first step, to be filled."""
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
        """Link each weight to its moments in ZeRO-1 and 2, which otherwise happens after the first step."""
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
        padded = value.new_zeros(part.numel() * self.ranks.world)  # padded as when it was partitioned
        padded[: value.numel()] = value.flatten()
        part.copy_(padded.view(self.ranks.world, -1)[self.ranks.rank])
