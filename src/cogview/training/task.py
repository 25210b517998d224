"""The interface of a training task, which implements everything specific to one model.

A task subclasses :class:`Task`, which provides defaults, and names its recipe class; it is registered in
``TASKS`` in ``registry.py``. The loop calls it in this order::

    task = SomeTask(recipe)                       # reads no files
    model = task.build()                          # after seeding; then .to(device), initialize(), restore()
    for batch, state in task.loader(state): ...   # one micro-batch per iteration
        for phase in task.phases: loss, metrics = task.loss(model, batch, step, phase)
        (all phases' optimizers step)
    task.after_step(model, step)
    task.evaluate(model); task.samples(model, directory, step); task.export(model, directory)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from cogview.errors import CogViewError
from cogview.training.first_loss import FirstLosses
from cogview.training.optim import AdamWConfig, MuonConfig, hidden_matrices
from cogview.training.parallel.ranks import Ranks
from cogview.training.recipe import Recipe
from cogview.training.throughput import BatchCost
from cogview.transformer.storage import read_weights

Metrics = dict[str, float | Tensor]
State = dict[str, Any]


class Task(Protocol):
    """The model, the data and the loss of a training run. The methods with a body are defaults.

    All random numbers come from torch's global generator (whose state is in the checkpoint), except in
    ``loader``, which runs in its own thread and only uses its own seed and state.
    """

    recipe_class: ClassVar[type[Recipe]]
    name: ClassVar[str]
    phases: tuple[str, ...] = ("model",)
    unit: str = "items"
    parallel: ClassVar[tuple[str, ...]] = ("ddp", "fsdp", "hsdp", "deepspeed")  # supported parallel.kind
    all_half: ClassVar[bool] = False  # whether its model can train with fp16 weights (precision: fp16-o2)
    recipe: Any
    device: torch.device = torch.device("cpu")  # set by the loop before build()
    spike: ClassVar[tuple[float, float]] = (50.0, 0.0)  # LossMonitor's factor and margin; loose, for any loss
    ranks: Ranks = Ranks()  # set by the loop; for losses that depend on the rows of other ranks

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe

    def build(self) -> nn.Module:
        """The initialized model, on the CPU."""
        ...

    def loader(self, state: State | None, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, State]]:
        """An infinite iterator of (micro-batch, state); ``state`` is plain JSON and resumes after it."""
        ...

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The loss of one phase and the metrics to log, or None to skip the phase in this step.

        Phases are called in order for each micro-batch, before any update; parameters of other phases have
        ``requires_grad`` off. Return metrics as detached tensors: they are only read at log steps.
        """
        ...

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The (name, parameter) pairs that a phase trains, named as in ``model.named_parameters()``."""
        return model.named_parameters()

    def has_unused_parameters(self, phase: str) -> bool:
        """Whether the loss of a phase may not depend on all of its parameters in some steps."""
        return False

    def optimizer(self, phase: str) -> AdamWConfig | MuonConfig:
        """The optimizer of a phase, by default the recipe's."""
        config: AdamWConfig | MuonConfig = self.recipe.optimizer
        return config

    def matrices(self, model: nn.Module) -> set[int]:
        """The ``id`` of each parameter for Muon, by default all matrices that are not embeddings."""
        return hidden_matrices(model)

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Load initial weights (recipe: ``init``) from a directory with ``model.safetensors``."""
        load_weights(model, directory)

    def first_losses(self, model: nn.Module) -> FirstLosses | None:
        """Losses of part of the first batch, of the initialized model and of the model in ``init`` itself.

        Called on rank 0, in eval mode and without gradients, after :meth:`initialize`. None if there is
        nothing to compare.
        """
        return None

    def compile(self, model: nn.Module) -> None:
        """Compile the model in place (recipe: ``compile``)."""
        model.compile()

    def prepare(self, batch: Any, device: torch.device) -> Any:
        """Move a batch to the device: every tensor in dicts, lists and tuples."""
        return to_device(batch, device)

    def num_items(self, batch: Any) -> int:
        """The number of ``unit``s in a batch, for the displayed speed."""
        return first_length(batch)

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """Weights of a batch's ``loss``, and of metrics with a different weight, in the mean over ranks.

        A rank for which a batch has no rows gets one row with weight 0. Called before :meth:`prepare`.
        """
        return {"loss": float(self.num_items(batch))}

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost:
        """The tokens and FLOPs of a batch, for the logged speed; called before :meth:`prepare`."""
        return BatchCost()

    def sample_keys(self, state: State | None, batches: int) -> list[str]:
        """Keys of the samples in the ``batches`` after a loader's ``state``, to log a skipped update."""
        return []

    def after_step(self, model: nn.Module, step: int) -> Metrics:
        """Called after an update (to restart dead codes, …); depends only on model, step and generator."""
        return {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on held-out data; called in eval mode, without gradients, with averaged weights if any."""
        return {}

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """Write sample images or texts of this step to ``directory``; called like :meth:`evaluate`."""
        return

    def export(self, model: nn.Module, directory: Path) -> None:
        """Write the trained model, in the format that the package loads, to an empty ``directory``."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """State of the task that a checkpoint must contain (statistics, buffers)."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that :meth:`tensors` returned."""
        return


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in nested dicts, lists and tuples; other values are unchanged."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(to_device(item, device) for item in value))
    if isinstance(value, list | tuple):
        return type(value)(to_device(item, device) for item in value)
    return value


def first_length(value: Any) -> int:
    """The length of the first value in a batch (a tensor's first dimension)."""
    if isinstance(value, dict):
        return first_length(next(iter(value.values())))
    return first_length(value[0]) if isinstance(value, tuple) else len(value)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Load ``directory/model.safetensors`` into a model of the same shape; raises CogViewError otherwise.

    As :meth:`Transformer.from_directory` does, it dequantizes int8 rows and reads tensors shared with a
    sibling model.
    """
    try:
        state = read_weights(directory, model.state_dict(), torch.float32, "cpu")
    except CogViewError as error:
        raise CogViewError(f"init: {error}; leave `model:` out to use the architecture of init") from error
    model.load_state_dict(state)
