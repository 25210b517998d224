"""What ``cogview plan`` says of tensor parallelism, against what two real ranks hold, keep and send."""

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from cogview.training.launch import begin, meet
from cogview.training.optim import local
from cogview.training.recipe import Recipe, task_class
from cogview.training.trainer import Trainer
from tests.training.parallel.world import recipe, run
from tests.training.test_plan import loss_of

BATCH, LENGTH = 4, 12
MODEL = {"layers": 6, "hidden": 64, "heads": 4, "norm_relax": "none"}


class Sent(TorchDispatchMode):
    """Bytes of every tensor that ranks add up."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its parts come by themselves
        if "all_reduce" in str(function):
            self.sizes.append(args[0].numel() * args[0].element_size())
        return function(*args, **(kwargs or {}))


def measure(given: Recipe, directory: Path) -> None:
    """A rank's part: one update by the trainer's own model and optimizer, and what was held and sent."""
    torch.set_num_threads(1)
    task = task_class(given.task)(given)
    ranks = meet(task, given)
    ranks.lead(lambda: begin(given, directory, False, True))
    trainer = Trainer(task, given, directory, Console(quiet=True), ranks)
    model, optimizer = trainer.model, trainer.phases[0].optimizer
    found: dict[str, Any] = {"sent": {}}
    for name, half, again in (("fp32", False, False), ("again", False, True), ("bf16", True, False)):
        model.checkpointing = again
        with Sent() as sent, torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of(model, BATCH, LENGTH)
            forward = list(sent.sizes)
            loss.backward()
        found["sent"][name] = [forward, sent.sizes[len(forward) :]]
    optimizer.step()
    states = [value for name, value in optimizer.tensors().items() if value.numel() > 1]
    tensors = [x for p in model.parameters() for x in (p, p.grad)] + states
    found["states"] = sum(local(x).numel() * x.element_size() for x in tensors if x is not None)
    model.checkpointing = False
    found["kept"] = {"fp32": kept(model, False), "bf16": kept(model, True)}
    (directory.parent / f"{directory.name}-{ranks.rank}.json").write_text(json.dumps(found))


def kept(model: Any, half: bool) -> int:
    """Bytes that a rank keeps from the forward to the backward pass, weights left out."""
    weights = {local(p).untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = local(x).untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        torch.autocast("cpu", torch.bfloat16, enabled=half),
    ):
        loss = loss_of(model, BATCH, LENGTH)
        total = sum(found.values())
        del loss
    return total


def test_explore(data: Path, tmp_path: Path) -> None:
    given = recipe(data, model=MODEL, parallel={"tensor": 2}, steps=1)
    assert run(2, (given, tmp_path / "two"), work=measure) == ["", ""]
    for rank in range(2):
        print((tmp_path / f"two-{rank}.json").read_text())
    assert 0
