"""What a training task is: everything the loop does not know.

A task subclasses :class:`Task` (the defaults below then hold) and names its recipe class; ``TASKS`` in
``registry.py`` names the task. The loop calls it in this order::

    task = SomeTask(recipe)                       # reads nothing
    model = task.build()                          # after seeding; then .to(device), initialize(), restore()
    for batch, state in task.loader(state): ...   # one micro-batch each
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
    """What to train, on what, by which loss. Subclass it; the methods with a body are defaults.

    Whatever draws random numbers uses torch's global generator (its state is in the checkpoint), except
    ``loader``, which runs in a thread of its own and draws from its own seed and state only.
    """

    recipe_class: ClassVar[type[Recipe]]
    name: ClassVar[str]
    phases: tuple[str, ...] = ("model",)
    unit: str = "items"
    parallel: ClassVar[tuple[str, ...]] = ("ddp", "fsdp", "hsdp", "deepspeed")  # kinds it can train with
    all_half: ClassVar[bool] = False  # whether its model computes with fp16 weights (precision: fp16-o2)
    recipe: Any
    device: torch.device = torch.device("cpu")  # set by the loop before build(), as is
    spike: ClassVar[tuple[float, float]] = (50.0, 0.0)  # guard.Watch's factor and margin; loose, for any loss
    ranks: Ranks = Ranks()  # for losses that hang on more than a rank's own rows

    def __init__(self, recipe: Any) -> None:
        self.recipe = recipe

    def build(self) -> nn.Module:
        """The model with its starting weights, on the CPU."""
        ...

    def loader(self, state: State | None, *, rank: int = 0, world: int = 1) -> Iterator[tuple[Any, State]]:
        """Endless (micro-batch, state): ``state`` is plain JSON and resumes at the batch after this one."""
        ...

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        """The loss of one phase, and what to log. None: this phase sits this step out.

        Phases come in order for each micro-batch, before any update; parameters of other phases have
        ``requires_grad`` off meanwhile. Keep metrics as detached tensors: they are read at log steps only.
        """
        ...

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        """The (name, parameter) pairs a phase trains, names as in ``model.named_parameters()``."""
        return model.named_parameters()

    def idle(self, phase: str) -> bool:
        """Whether some parameters of a phase may have no part in its loss at some steps."""
        return False

    def optimizer(self, phase: str) -> AdamWConfig | MuonConfig:
        """The optimizer of a phase: the recipe's, unless a task says otherwise."""
        config: AdamWConfig | MuonConfig = self.recipe.optimizer
        return config

    def matrices(self, model: nn.Module) -> set[int]:
        """The ``id`` of each parameter Muon may take: by default every matrix that is not an embedding."""
        return hidden_matrices(model)

    def initialize(self, model: nn.Module, directory: Path) -> None:
        """Load starting weights (recipe: ``init``) from a directory with ``model.safetensors``."""
        load_weights(model, directory)

    def first_losses(self, model: nn.Module) -> FirstLosses | None:
        """Losses of a part of the first batch: of the model as it starts, and of the one in ``init`` itself.

        Called on rank 0, in eval mode, without gradients, after :meth:`initialize`. None: nothing to compare.
        """
        return None

    def compile(self, model: nn.Module) -> None:
        """Compile the model in place (recipe: ``compile``)."""
        model.compile()

    def prepare(self, batch: Any, device: torch.device) -> Any:
        """Move a batch to the device: every tensor in dicts, lists and tuples."""
        return to_device(batch, device)

    def num_items(self, batch: Any) -> int:
        """How many ``unit``s a batch has, for the speed shown."""
        return first_length(batch)

    def loss_weights(self, batch: Any) -> dict[str, float]:
        """By how much a batch's ``loss``, and other metrics of their own weight, count in a mean over ranks.

        A rank for which a batch has no row gets one that counts 0. Called before :meth:`prepare`.
        """
        return {"loss": float(self.num_items(batch))}

    def batch_cost(self, model: nn.Module, batch: Any) -> BatchCost:
        """A batch's tokens and operations, for the speed that is logged; called before :meth:`prepare`."""
        return BatchCost()

    def sample_keys(self, state: State | None, batches: int) -> list[str]:
        """Keys of what is in the ``batches`` after a loader's ``state``, to name those that overflowed."""
        return []

    def after_step(self, model: nn.Module, step: int) -> Metrics:
        """What follows an update (restarting dead codes, …), a function of model, step and generator."""
        return {}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Metrics on held-out data; called in eval mode, without gradients, with the averaged weights."""
        return {}

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        """Write sample images or texts of this step into ``directory``; called as ``evaluate`` is."""
        return

    def export(self, model: nn.Module, directory: Path) -> None:
        """Write the trained model, in the form the rest of the package loads, into an empty ``directory``."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """State of the task itself that a checkpoint must hold (statistics, buffers)."""
        return {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        return


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in nested dicts, lists and tuples; anything else stays as it is."""
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
    """The length of the first thing in a batch that has one (a tensor's first dimension)."""
    if isinstance(value, dict):
        return first_length(next(iter(value.values())))
    return first_length(value[0]) if isinstance(value, tuple) else len(value)


def load_weights(model: nn.Module, directory: Path) -> None:
    """Load ``directory/model.safetensors`` into a model of the same shape; raises CogViewError otherwise.

    It is read as :meth:`Transformer.from_directory` reads it: int8 rows with their scales, and what a
    neighbour stores for it.
    """
    try:
        state = read_weights(directory, model.state_dict(), torch.float32, "cpu")
    except CogViewError as error:
        raise CogViewError(f"init: {error}; leave `model:` out to take the architecture of init") from error
    model.load_state_dict(state)
