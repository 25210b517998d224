"""Training one model on many processes, from outside: the model and the task know nothing of it.

=========== =============================================== ========================================
kind        what each rank holds                            by
=========== =============================================== ========================================
``ddp``     everything; gradients are averaged              ``DistributedDataParallel``
``fsdp``    its share of weights, gradients and optimizer   FSDP2, ``fully_shard`` block by block
``hsdp``    as ``fsdp`` among neighbours, ``replicas``      FSDP2 on a mesh of two dimensions
            times over
``deepspeed`` its share, by DeepSpeed's ZeRO                ``parallel_deepspeed.py``
=========== =============================================== ========================================

``zero: 3`` gives up a block's weights after its forward pass and gathers them again for the backward pass
(ZeRO-3), ``zero: 2`` keeps them in between (ZeRO-2). ``tensor``: each layer is split among so many
neighbours, within any of these but DeepSpeed (``parallel_tensor.py``).

A micro-batch is shared out row by row, so the global batch is the recipe's whatever the number of ranks. The
loss is a mean over the global batch: a rank's loss counts by the weight of its tokens (``Task.shares``),
which the ranks add up first. So N ranks follow the curve of one, to rounding.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
import torch.distributed as dist
from pydantic import Field, model_validator
from torch import Tensor, nn

from cogview.config import Config
from cogview.errors import CogViewError
from cogview.training.optim import PhaseOptimizer, is_sharded, local
from cogview.training.parallel_ranks import Ranks, launched_world, local_rank

if TYPE_CHECKING:
    from cogview.training.recipe import Recipe
    from cogview.training.task import Metrics, Task

Kind = Literal["none", "ddp", "fsdp", "hsdp", "deepspeed"]
Sizes = Mapping[str, tuple[torch.Size, torch.dtype]]
MIN_MINUTES = 0.01


class Parallel(Config):
    """How a run is spread over processes; on one process every kind trains as ``none`` does.

    ``zero``: for fsdp, hsdp and deepspeed, 2 or 3. ``replicas``: for hsdp, how many times the model is held;
    each replica is sharded over ranks / replicas neighbours. ``tensor``: so many neighbours share every layer
    and the same rows of a batch; the other fields are about what is left of the ranks, and kind may be none
    where nothing is. ``sync``: when gradients are exchanged,
    at the ``last`` micro-batch of an update, or at ``every`` one, which needs less memory under ZeRO and
    more network. ``minutes``: how long a rank waits for another before it gives up.
    """

    kind: Kind = "none"
    zero: Literal[2, 3] = 3
    replicas: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    sync: Literal["last", "every"] = "last"
    minutes: float = Field(30.0, ge=MIN_MINUTES)

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        if self.replicas != 1 and self.kind != "hsdp":
            raise ValueError(f"replicas is for hsdp, but kind is {self.kind}")
        if self.replicas == 1 and self.kind == "hsdp":
            raise ValueError("hsdp needs replicas, 2 or more; one replica is fsdp")
        if self.tensor > 1 and self.kind == "deepspeed":
            raise ValueError("tensor does not go with deepspeed; use ddp, fsdp or hsdp")
        return self


def check_launch(recipe: Recipe, kinds: tuple[str, ...]) -> None:
    """Raise CogViewError where the number of processes does not fit a recipe. ``kinds``: its task's."""
    world, parallel = launched_world(), recipe.parallel
    if world == 1:
        return
    check_tensor(recipe, kinds, world)
    there = world // parallel.tensor
    if parallel.kind == "none" and there > 1:
        raise CogViewError(
            f"{world} processes were started, but parallel.kind is none; "
            "add --set parallel.kind=ddp (or fsdp, hsdp)"
        )
    if parallel.kind not in (*kinds, "none"):
        known = f"with {', '.join(kinds)}" if kinds else "on one process only"
        raise CogViewError(f"parallel.kind: {recipe.task} trains {known}, not with {parallel.kind}")
    if recipe.batch_size < there:
        raise CogViewError(
            f"batch_size: {recipe.batch_size} sequences cannot be shared by {there} ranks; "
            f"give at least {there} (batch_size is of all ranks together)"
        )
    check_deepspeed(recipe)
    if parallel.kind == "hsdp" and there % parallel.replicas:
        raise CogViewError(
            f"parallel.replicas: {there} ranks cannot be divided into {parallel.replicas} replicas"
        )
    if recipe.device not in ("auto", "cpu", "cuda"):
        raise CogViewError(f"device: {recipe.device} is not for several processes; use auto, cpu or cuda")
    if recipe.device != "cpu" and 0 < torch.cuda.device_count() <= local_rank():
        raise CogViewError(
            f"more processes than the {torch.cuda.device_count()} GPUs of this machine were started; "
            "give torchrun --nproc-per-node at most as many"
        )


def check_tensor(recipe: Recipe, kinds: tuple[str, ...], world: int) -> None:
    """Raise CogViewError where layers cannot be split among ``world`` ranks as a recipe asks."""
    tensor = recipe.parallel.tensor
    if tensor == 1:
        return
    if "fsdp" not in kinds:
        raise CogViewError(f"parallel.tensor: {recipe.task} has no transformer's blocks to split; use 1")
    check_groups(world, tensor)
    if recipe.optimizer.kind == "muon":
        raise CogViewError("optimizer.kind: muon does not go with parallel.tensor; use adamw, or tensor 1")
    if getattr(recipe, "lora", None) is not None:
        raise CogViewError("lora does not go with parallel.tensor; adapters are small: use ddp or fsdp")


def check_groups(world: int, tensor: int) -> None:
    """Raise CogViewError where ranks do not come in groups of ``tensor``."""
    if world % tensor:
        raise CogViewError(f"parallel.tensor: {world} ranks cannot be divided into groups of {tensor}")


def check_deepspeed(recipe: Recipe) -> None:
    """Raise CogViewError where a recipe asks of DeepSpeed what only our own engines do."""
    if recipe.parallel.kind != "deepspeed":
        return
    if find_spec("deepspeed") is None:
        raise CogViewError(
            "parallel.kind: deepspeed is not installed; pip install 'cogview[deepspeed]', or use fsdp"
        )
    for field, asked, why in (
        ("optimizer.kind: muon", recipe.optimizer.kind == "muon", "it shards flat buffers, not matrices"),
        ("precision: fp16", recipe.precision == "fp16", "its loss scaling is another"),
        ("ema", recipe.ema is not None, "its weights lie in flat buffers"),
    ):
        if asked:
            raise CogViewError(f"{field} does not go with parallel.kind deepspeed ({why}); use fsdp")


class Engine:
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

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch."""
        loss.backward()  # type: ignore[no-untyped-call]

    leaves_out: bool = True  # whether an update can be left out once its loss is known

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

    def looked(self) -> None:
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
        return {"model": self.stored(self.model.state_dict()), "optimizer": self.stored(held)}

    def places(self, sizes: Sizes) -> dict[str, dict[str, Tensor]]:
        """Where a checkpoint's tensors go, named as in :meth:`tensors`. sizes: of the optimizers' state."""
        held: dict[str, Tensor] = {}
        for phase, optimizer in self.optimizers.items():
            start = f"{phase}/"
            own = {key.removeprefix(start): size for key, size in sizes.items() if key.startswith(start)}
            held |= {f"{start}{key}": value for key, value in optimizer.empty(own).items()}
        return {"model": self.model.state_dict(), "optimizer": held}

    def filled(self, places: dict[str, dict[str, Tensor]]) -> None:
        """Called when the places are filled."""

    def stored(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights, or what has their shapes, as a checkpoint holds them; all ranks call it together."""
        return dict(named)

    def blank(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where a checkpoint's tensors go that :meth:`stored` gave: by default these themselves."""
        return dict(named)

    def settle(self, named: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
        """Have ``named`` hold what was put in the places :meth:`blank` gave."""


class Objective(nn.Module):
    """A task's loss as a module's forward pass, which is what DDP watches."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.task, self.model = task, model

    def forward(self, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The loss of the rank's rows, and what to log."""
        return self.task.loss(self.model, batch, step, phase)


class DataParallel(Engine):
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


class Sharded(Engine):
    """FSDP2: every block's weights are spread over the ranks and gathered while it is at work.

    What is outside the blocks (embeddings, last norm) stays gathered from the forward to the backward pass,
    because the output matrix is used after the model's own forward pass.
    """

    def place(self, model: nn.Module, compile: Callable[[nn.Module], None]) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        blocks = getattr(model, "blocks", None)
        if not isinstance(blocks, nn.ModuleList):
            raise CogViewError(
                f"parallel.kind: this model has no blocks to shard by {self.parallel.kind}; use ddp"
            )
        self._twin = copy.deepcopy(model) if self.ranks.first else None
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
    def exchanging(self, last: bool) -> Iterator[None]:
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

    def looked(self) -> None:
        self._root.reshard()

    @contextmanager
    def whole(self) -> Iterator[nn.Module | None]:
        held = self._twin.state_dict() if self._twin is not None else {}
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                full = self.gathered(name, value)
                if held:
                    held[name].copy_(full)
        with lent(self._twin, self.model.training, self.ranks.device):
            yield self._twin

    def gathered(self, name: str, value: Tensor) -> Tensor:
        """A tensor whole; all ranks call it together."""
        full: Tensor = value.full_tensor() if is_sharded(value) else value  # type: ignore[attr-defined]
        return full

    @property
    def _root(self) -> Any:
        return self.model


@contextmanager
def lent(twin: nn.Module | None, training: bool, device: torch.device) -> Iterator[None]:
    """Within, a whole copy of a sharded model is on the device; it is kept in main memory."""
    if twin is not None:
        twin.train(training).to(device)
    try:
        yield
    finally:
        if twin is not None:
            twin.cpu()


def make_engine(ranks: Ranks, parallel: Parallel) -> Engine:
    """The engine a recipe asks for, on these ranks."""
    if ranks.world == 1:
        return Engine(ranks, parallel)
    if parallel.kind == "deepspeed":
        from cogview.training.parallel_deepspeed import DeepSpeed

        return DeepSpeed(ranks, parallel)
    if parallel.tensor > 1:
        from cogview.training.parallel_tensor import TensorSharded

        return TensorSharded(ranks, parallel)
    return DataParallel(ranks, parallel) if parallel.kind == "ddp" else Sharded(ranks, parallel)
