"""The data, and the runs that several tests look at: each is trained once."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.parallel.world import recipe, run, train
from tests.training.runs import VOCABULARY, caption, write_data

# What makes a run's curve. Whatever the number of ranks, it is that of one process.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full": {
        "accumulation": 2, "ema": 0.9, "activation_checkpointing": True, "clip": 0.5,
        "optimizer": {"kind": "muon", "lr": 0.005},
    },
    "dropped": {
        "accumulation": 2, "ema": 0.9, "activation_checkpointing": True, "clip": 0.5,
        "model": {"layers": 2, "hidden": 32, "heads": 2, "hidden_dropout": 0.1},
    },
}  # fmt: skip


def tolerance(settings: str) -> float:
    """Of the losses on another number of ranks: sums in another order differ in their last bits.

    Muon raises the least directions of a gradient, which hold such differences, as high as the others.
    """
    return 1e-3 if "optimizer" in SETTINGS[settings] else 1e-4


# (ranks, settings, parallel)
RUNS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "ddp on 2": (2, "plain", {"kind": "ddp"}),
    "zero 2 on 2": (2, "plain", {"kind": "fsdp", "zero": 2}),
    "zero 3 on 2": (2, "plain", {"kind": "fsdp", "zero": 3}),
    "ddp with Muon on 2": (2, "full", {"kind": "ddp"}),
    "zero 3 with Muon on 2": (2, "full", {"kind": "fsdp", "zero": 3}),
    "tensor on 2": (2, "dropped", {"tensor": 2}),
    "tensor with ddp on 4": (4, "plain", {"kind": "ddp", "tensor": 2}),
    "tensor with zero 3 on 4": (4, "plain", {"kind": "fsdp", "tensor": 2}),
    "ddp on 4": (4, "plain", {"kind": "ddp"}),
    "zero 2 on 4": (4, "plain", {"kind": "fsdp", "zero": 2}),
    "zero 3 on 4": (4, "plain", {"kind": "fsdp", "zero": 3}),
    "hsdp with Muon on 4": (4, "full", {"kind": "hsdp", "replicas": 2, "sync": "every"}),
}


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A directory that ``make`` fills: once, even where several workers of xdist ask for it."""
    base = factory.getbasetemp()
    directory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"parallel-{name}"
    done = directory / "done"
    try:
        directory.mkdir()
    except FileExistsError:
        end = time.monotonic() + 1800
        while not done.exists():
            assert time.monotonic() < end and not (directory / "failed").exists()
            time.sleep(0.1)
        return directory
    try:
        make(directory)
    except BaseException:
        (directory / "failed").touch()
        raise
    done.touch()
    return directory


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 items, 48 of them for training."""

    def make(directory: Path) -> None:
        write_data(directory, caption, VOCABULARY, "1" * 16, "2" * 64)

    return once(tmp_path_factory, "tokens", make)


@pytest.fixture(scope="session")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of one process, by settings."""

    def make(directory: Path) -> None:
        for name, fields in SETTINGS.items():
            train(recipe(data, **fields), directory / name)

    directory = once(tmp_path_factory, "alone", make)
    return {name: directory / name for name in SETTINGS}


@pytest.fixture(scope="session")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The runs of several, by name."""

    def make(directory: Path) -> None:
        for world in (2, 4):
            jobs = [
                (recipe(data, parallel=parallel, **SETTINGS[settings]), directory / name)
                for name, (ranks, settings, parallel) in RUNS.items()
                if ranks == world
            ]
            assert run(world, *jobs) == [""] * world

    directory = once(tmp_path_factory, "together", make)
    return {name: directory / name for name in RUNS}
