"""A tiny real task for the loop's tests.

A two-layer network with dropout (so that torch's generator matters) learns a fixed linear map from inputs
that the loader draws from its own state; the optional second phase trains a critic on the first one's
output.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.recipe import Name, Recipe
from cogview.training.task import Metrics, Task
from cogview.training.trainer import Outcome, Trainer

STEPS = 60
TIMED = ("seconds", "items_per_second", "tokens_per_second", "stalls", "memory", "utilisation")


class TinyRecipe(Recipe):
    task: Literal["tiny"] = "tiny"
    name: Name = "tiny"
    steps: int = Field(STEPS, ge=1)
    adversarial: bool = False
    dropout: float = 0.1
    pause: float = 0.0


class Model(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.critic = nn.Linear(3, 1)
        self.register_buffer("seen", torch.zeros(()))


def batch_at(index: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(index)
    inputs = torch.randn(size, 6, generator=generator)
    target = torch.linspace(-1, 1, 18).reshape(6, 3)
    return inputs, inputs @ target


class TinyTask(Task):
    recipe_class: ClassVar[type[Recipe]] = TinyRecipe
    name: ClassVar[str] = "tiny"

    def __init__(self, recipe: TinyRecipe) -> None:
        super().__init__(recipe)
        self.phases = ("model", "critic") if recipe.adversarial else ("model",)
        self.noise = torch.zeros(3)

    def build(self) -> nn.Module:
        return Model(self.recipe.dropout)

    def loader(
        self, state: dict[str, Any] | None, *, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        index = state["next"] if state else 0
        while True:
            yield batch_at(index, self.recipe.batch_size), {"next": index + 1}
            index += 1

    def parameters(self, model: nn.Module, phase: str) -> Iterator[tuple[str, nn.Parameter]]:
        wanted = "critic." if phase == "critic" else "net."
        return ((name, value) for name, value in model.named_parameters() if name.startswith(wanted))

    def loss(self, model: nn.Module, batch: Any, step: int, phase: str) -> tuple[Tensor, Metrics] | None:
        inputs, targets = batch
        if phase == "critic":
            if step < 3:
                return None
            return F.softplus(model.critic(model.output.detach())).mean(), {}
        model.output = model.net(inputs)
        loss = F.mse_loss(model.output.float(), targets)
        if self.recipe.adversarial and step >= 3:
            loss = loss - 0.01 * model.critic(model.output).mean()
        return loss, {"largest": model.output.detach().abs().max()}

    def after_step(self, model: nn.Module, step: int) -> Metrics:
        time.sleep(self.recipe.pause)
        model.seen += 1
        self.noise = self.noise + torch.randn(3)
        return {"noise": self.noise.sum()}

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        torch.randn(7)  # must not disturb the training
        inputs, targets = batch_at(10**6, 32)
        return {"loss": float(F.mse_loss(model.net(inputs).float(), targets))}

    def samples(self, model: nn.Module, directory: Path, step: int) -> None:
        (directory / f"{step:08d}.txt").write_text(str(model.net(torch.ones(6)).tolist()))

    def export(self, model: nn.Module, directory: Path) -> None:
        save_file(model.state_dict(), directory / "model.safetensors")

    def tensors(self) -> dict[str, Tensor]:
        return {"noise": self.noise}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.noise = tensors["noise"]


def run(directory: Path, recipe: TinyRecipe, resume: bool = False) -> Outcome:
    """Train in ``directory``; what a test or a process of its own calls."""
    torch.set_num_threads(1)
    prepare_directory(recipe, directory, resume)
    with (directory.parent / "said.txt").open("a") as said:
        return Trainer(TinyTask(recipe), recipe, directory, Console(file=said)).fit(resume)


def losses(directory: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics without the wall-clock times."""
    lines = MetricsFile(directory / "metrics.jsonl").lines()
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
