"""What ``cogview plan`` says of tensor parallelism, against what two real ranks hold, keep and send."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from cogview.training.launch import begin, join_ranks
from cogview.training.optim import local
from cogview.training.planning import Work, activation_bytes, layer_bytes, parameters, state_bytes
from cogview.training.recipe import Recipe
from cogview.training.registry import task_class
from cogview.training.trainer import Trainer
from cogview.transformer.config import TransformerConfig
from tests.training.parallel.world import recipe, run
from tests.training.planning import loss_of

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
    ranks = join_ranks(task, given)
    ranks.on_first(lambda: begin(given, directory, False, True))
    trainer = Trainer(task, given, directory, Console(quiet=True), ranks)
    model, optimizer = trainer.model, trainer.phases[0].optimizer
    found: dict[str, Any] = {"sent": {}, "config": model.config.model_dump()}
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
    found["kept"] = kept(model)
    (directory.parent / f"{directory.name}-{ranks.rank}.json").write_text(json.dumps(found))


def kept(model: Any) -> int:
    """Bytes that a rank keeps from the forward to the backward pass, weights left out."""
    weights = {local(p).untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        part = local(x)
        storage = getattr(part, "elem", part).untyped_storage()  # of a sum that is under way
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss = loss_of(model, BATCH, LENGTH)
        total = sum(found.values())
        del loss
    return total


@pytest.fixture(scope="module")
def measured(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks found."""
    place = tmp_path_factory.mktemp("ranks")
    given = recipe(data, model=MODEL, parallel={"tensor": 2}, steps=1)
    assert run(2, (given, place / "two"), work=measure) == ["", ""]
    return [json.loads((place / f"two-{rank}.json").read_text()) for rank in range(2)]


def planned(facts: dict[str, Any], **fields: Any) -> tuple[TransformerConfig, Work]:
    work = {"length": LENGTH, "batch": BATCH, "steps": 1, "tensor": 2, "half": False, "recompute": False}
    return TransformerConfig.model_validate(facts["config"]), Work.model_validate(work | fields)


def test_a_rank_holds_what_the_plan_says(measured: list[dict[str, Any]]) -> None:
    """Weights, gradients and both moments, to the byte."""
    for facts in measured:
        config, work = planned(facts)
        assert facts["states"] == state_bytes(parameters(config, 2), work, "none", 1)


def test_a_rank_keeps_about_what_the_plan_says(measured: list[dict[str, Any]]) -> None:
    for facts in measured:
        config, work = planned(facts)
        assert activation_bytes(config, work, BATCH) == pytest.approx(facts["kept"], rel=0.1)


@pytest.mark.parametrize(
    ("name", "fields"), [("fp32", {}), ("again", {"recompute": True}), ("bf16", {"half": True})]
)
def test_layers_add_up_what_the_plan_says(
    name: str, fields: dict[str, Any], measured: list[dict[str, Any]]
) -> None:
    """Twice a layer forward, twice backward, and twice when the forward pass is computed again."""
    for facts in measured:
        config, work = planned(facts, **fields)
        forward, backward = facts["sent"][name]
        assert len(forward) == 2 * config.layers
        assert len(backward) == (4 if work.recompute else 2) * config.layers
        states = config.layers * BATCH * LENGTH * config.hidden
        assert sum(forward + backward) == states * layer_bytes(config, work)
