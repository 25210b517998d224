"""A run of every task on a GPU, pretended where there is none: training, evaluation, checkpoint, export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.training import throughput
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.parallel.ranks import Ranks
from cogview.training.registry import read_recipe, task_class
from cogview.training.task import Task
from cogview.training.tasks.coglm import CogLMTask
from cogview.training.tasks.guidance_free import GuidanceFreeTask
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.trainer import Trainer
from tests.pretended import any_cuda
from tests.training import coglm_runs, runs, test_hierarchical_tokenizer_task, test_upscaling_task
from tests.training import test_guidance_free as guidance
from tests.training import test_image_tokenizer_task as image_tokenizer
from tests.training import test_super_resolution_task as windowed

pytestmark = pytest.mark.cuda

SHORT: dict[str, Any] = {
    "steps": 2,
    "batch_size": 4,
    "device": "auto",
    "intervals": {"log": 1, "evaluate": 2, "sample": 0, "checkpoint": 2},
    "precision": "fp32",
    "validation": {"items": 4},
    "ema": 0.9,
}
images = image_tokenizer.pictures
squares = test_hierarchical_tokenizer_task.pictures
pairs, enlarged = windowed.data, test_upscaling_task.data


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's rate is measured by products for a GPU, which take seconds on a pretended one."""
    for kind in ("cpu", "cuda"):
        monkeypatch.setitem(throughput.SIDES, kind, 64)


def losses(task: Task, directory: Path, device: str) -> list[float]:
    """Of a run of two steps on a device."""
    prepare_directory(task.recipe, directory, False)
    ranks = Ranks(device=torch.device(device))
    Trainer(task, task.recipe, directory, ranks=ranks).fit()
    lines = MetricsFile(directory / "metrics.jsonl").lines()
    return [line["loss"] for line in lines if line["kind"] == "train"]


def check(make: Callable[[], Task], directory: Path) -> None:
    """The same losses on both devices, with the same numbers for dropout; Muon rounds more on a GPU."""
    expected = losses(make(), directory / "cpu", "cpu")
    with any_cuda():
        found = losses(make(), directory / "cuda", "cuda:0")
    assert len(found) == 2 and found == pytest.approx(expected, rel=1e-3)
    assert any((directory / "cuda" / "model").iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_checkpointing": True},
        {"model": runs.FIXED | {"attention_dropout": 0.1, "numerics": "written", "attention_relax": 32.0}},
        {"optimizer": {"kind": "muon", "lr": 0.02}},
    ],
)
def test_transformer(data: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    check(lambda: TransformerTask(runs.recipe(data, **{**SHORT, **changes})), tmp_path)


@pytest.mark.parametrize("objective", [guidance.DISTILLATION, guidance.CONTRASTIVE], ids=["kl", "cca"])
def test_guidance_free(data: Path, tmp_path: Path, objective: dict[str, Any]) -> None:
    runs.fit(runs.recipe(data, steps=1), tmp_path / "teacher")
    asked = {**SHORT, "objective": objective}
    check(lambda: GuidanceFreeTask(guidance.given(data, tmp_path / "teacher", **asked)), tmp_path)


def test_windowed_super_resolution(pairs: Path, tmp_path: Path) -> None:
    check(lambda: TransformerTask(windowed.recipe(pairs, **SHORT)), tmp_path)


def test_coglm(data: Path, tmp_path: Path) -> None:
    check(lambda: CogLMTask(coglm_runs.recipe(data, **SHORT)), tmp_path)


@pytest.mark.parametrize("task", [test_upscaling_task.direct, test_upscaling_task.iterative])
def test_enlarging(task: Callable[..., Task], enlarged: Path, tmp_path: Path) -> None:
    check(lambda: task(enlarged, **SHORT), tmp_path)


def test_image_tokenizer(images: Path, tmp_path: Path) -> None:
    """With the adversarial phase and restarts of codes."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(image_tokenizer.RECIPE)
    given = [
        "steps=2",
        "warmup_steps=0",
        "restart_every=1",
        "loss.adversarial=0.1",
        "loss.adversarial_start=0",
    ]
    asked = read_recipe(recipe, [f"data={images}", *given])
    check(lambda: task_class(asked.task)(asked), tmp_path)


def test_hierarchical_tokenizer(squares: Path, tmp_path: Path) -> None:
    tiny = test_hierarchical_tokenizer_task
    changes = [
        f"{key}={value}"
        for key, value in (tiny.TINY | {"steps": 2, "warmup_steps": 0, "precision": "fp32"}).items()
    ]
    asked = read_recipe(tiny.RECIPE, [*changes, f"data={squares}", "loss.perceptual=[]"])
    check(lambda: task_class(asked.task)(asked), tmp_path)
