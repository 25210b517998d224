"""Sharded data parallelism with PyTorch's FSDP2 (Zhao et al., 2023), with or without replicas."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.training.optim import is_sharded, local
from cogview.training.parallel.strategy import ParallelStrategy


class Sharded(ParallelStrategy):
    """FSDP2: every block's weights are sharded over the ranks and gathered while it is computed.

    Weights outside the blocks (embeddings, last norm) stay gathered from the forward to the backward pass,
    because the output matrix is used after the model's forward pass.
    """

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        blocks = getattr(model, "blocks", None)
        if not isinstance(blocks, nn.ModuleList):
            raise CogViewError(
                f"parallel.kind: this model has no blocks to shard by {self.parallel.kind}; use ddp"
            )
        self._full_copy = copy.deepcopy(model) if self.ranks.first else None
        compile(model)
        kind, world, replicas = self.ranks.device.type, self.ranks.world, self.parallel.replicas
        if self.parallel.kind == "hsdp":
            shape, names = (replicas, world // replicas), ("replicas", "shards")
            mesh = init_device_mesh(kind, shape, mesh_dim_names=names)
        else:
            mesh = init_device_mesh(kind, (world,), mesh_dim_names=("shards",))
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=self.parallel.zero == 3)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        self._shards = mesh["shards"].get_group()

    @contextmanager
    def gradient_sync(self, last: bool) -> Iterator[None]:
        self._synchronise(last or self.parallel.sync == "every")
        yield

    def _synchronise(self, now: bool) -> None:
        self._root.set_requires_gradient_sync(now)

    def norm(self, gradients: list[Tensor]) -> Tensor:
        square = torch.nn.utils.get_total_norm([local(gradient) for gradient in gradients]) ** 2
        dist.all_reduce(square, group=self._shards)
        return square.sqrt()

    def clip(self, parameters: list[nn.Parameter], limit: float, norm: Tensor) -> None:
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))

    def after_eval(self) -> None:
        self._root.reshard()

    @contextmanager
    def full_model(self) -> Iterator[nn.Module | None]:
        weights = self._full_copy.state_dict() if self._full_copy is not None else {}
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                full = self.gather(name, value)
                if weights:
                    weights[name].copy_(full)
        with on_device(self._full_copy, self.model.training, self.ranks.device):
            yield self._full_copy

    def gather(self, name: str, value: Tensor) -> Tensor:
        """Gather a sharded tensor; all ranks call it together."""
        full: Tensor = value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]
        return full

    @property
    def _root(self) -> Any:
        return self.model


@contextmanager
def on_device(model: nn.Module | None, training: bool, device: torch.device) -> Iterator[None]:
    """A context in which the full copy of a sharded model, kept in main memory, is on the device."""
    if model is not None:
        model.train(training).to(device)
    try:
        yield
    finally:
        if model is not None:
            model.cpu()
