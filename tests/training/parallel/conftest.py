"""The data, and the runs that several tests look at: each is trained once."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.parallel.world import recipe, run, train
from tests.training.test_transformer_task import VOCABULARY, caption, write_data

# What makes a run's curve. Whatever the number of ranks, it is that of one process.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {
        "accumulation": 2, "ema": 0.9, "activation_checkpointing": True, "clip": 0.5,
        "optimizer": {"kind": "muon", "lr": 0.002},
    },
}  # fmt: skip
# (ranks, settings, parallel)
RUNS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "ddp on 2": (2, "plain", {"kind": "ddp"}),
    "zero 2 on 2": (2, "plain", {"kind": "fsdp", "zero": 2}),
    "zero 3 on 2": (2, "plain", {"kind": "fsdp", "zero": 3}),
    "ddp with Muon on 2": (2, "full", {"kind": "ddp"}),
    "zero 3 with Muon on 2": (2, "full", {"kind": "fsdp", "zero": 3}),
    "ddp on 4": (4, "plain", {"kind": "ddp"}),
    "zero 2 on 4": (4, "plain", {"kind": "fsdp", "zero": 2}),
    "zero 3 on 4": (4, "plain", {"kind": "fsdp", "zero": 3}),
    "hsdp with Muon on 4": (4, "full", {"kind": "hsdp", "replicas": 2, "sync": "every"}),
}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 items, 48 of them for training."""
    return write_data(tmp_path_factory.mktemp("tokens"), caption, VOCABULARY, "1" * 16, "2" * 64)


@pytest.fixture(scope="session")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of one process, by settings."""
    directory = tmp_path_factory.mktemp("alone")
    for name, fields in SETTINGS.items():
        train(recipe(data, **fields), directory / name)
    return {name: directory / name for name in SETTINGS}


@pytest.fixture(scope="session")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of several, by name."""
    directory = tmp_path_factory.mktemp("together")
    for world in (2, 4):
        jobs = [
            (recipe(data, parallel=parallel, **SETTINGS[settings]), directory / name)
            for name, (ranks, settings, parallel) in RUNS.items()
            if ranks == world
        ]
        assert run(world, *jobs) == [""] * world
    return {name: directory / name for name in RUNS}
