"""Tasks that train judges on a GPU, pretended where there is none; recipes of the others allow a CPU only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.evaluation.judges.thing_reader import ThingReader, ThingReaderConfig
from cogview.training.parallel.ranks import Ranks
from cogview.training.registry import task_class
from cogview.training.trainer import Trainer
from tests.pretended import any_cuda

pytestmark = pytest.mark.cuda

SHORT = {
    "name": "judge",
    "steps": 2,
    "batch_size": 8,
    "precision": "fp32",
    "optimizer": {"kind": "adamw", "lr": 1e-3},
    "intervals": {"log": 1, "evaluate": 2, "sample": 0},
}


def trains(out: Path, **fields: Any) -> None:
    kind = task_class(fields["task"])
    recipe = kind.recipe_class.model_validate({**SHORT, **fields})
    (out / "run").mkdir()
    with any_cuda():
        Trainer(kind(recipe), recipe, out / "run", ranks=Ranks(device=torch.device("cuda:0"))).fit()
    assert any((out / "run" / "model").iterdir())


def test_thing_reader(squares: Path, network: Path, tmp_path: Path) -> None:
    trains(tmp_path, task="thing_reader", data=squares, network=network, frozen=14)


def test_scene_reader(squares: Path, tmp_path: Path) -> None:
    ThingReader(ThingReaderConfig(things=("apple", "leaf"), size=64)).save(tmp_path / "things")
    trains(tmp_path, task="scene_reader", data=squares, reader=tmp_path / "things", width=16)
