"""Checkpoints: whole or absent, verified, and the damaged one is named and passed over."""

from pathlib import Path

import pytest
import torch

from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import (
    TrainState,
    damage,
    latest_checkpoint,
    list_checkpoints,
    prune,
    save_checkpoint,
    set_aside,
)
from cogview.training.precision import LossScaler

TENSORS = {"model": {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}, "ema": {}}


def save(directory: Path, *steps: int) -> None:
    for step in steps:
        state = TrainState(step=step, loader={"epoch": 1}, window={"loss": [0.1, 1e-30]})
        save_checkpoint(directory, state, TENSORS)


def test_reads_back_what_was_saved(tmp_path: Path) -> None:
    state = TrainState(step=7, seconds=1.5, loader={"a": [1, None]}, scalers={"model": LossScaler(good=3)})
    path = save_checkpoint(tmp_path, state, TENSORS)
    assert path.name == "step-00000007"
    found = latest_checkpoint(tmp_path, pytest.fail)
    assert found is not None and found.state == state
    assert torch.equal(found.tensors["model"]["w"], TENSORS["model"]["w"])
    assert not (path / "ema.safetensors").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_damaged_newest_is_named_and_the_previous_used(tmp_path: Path, file: str, how: str) -> None:
    save(tmp_path, 10, 20)
    path = tmp_path / "step-00000020" / file
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-9] if how == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    warnings: list[str] = []
    found = latest_checkpoint(tmp_path, warnings.append)
    assert found is not None and found.state.step == 10
    assert len(warnings) == 1 and "step-00000020" in warnings[0] and "\n" not in warnings[0]


def test_all_damaged_is_an_error(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / "step-00000010" / "state.json").write_text("{}")
    with pytest.raises(CogViewError, match="every checkpoint"):
        latest_checkpoint(tmp_path, lambda line: None)


def test_unfinished_write_is_ignored_and_removed(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / "step-00000020.part").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010"]
    prune(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]


def test_keeps_the_last(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 100_000_000, 11)
    prune(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000011", "step-100000000"]


def test_damaged_ones_make_way(tmp_path: Path) -> None:
    save(tmp_path, 10, 20)
    set_aside(tmp_path, 10)
    save(tmp_path, 15)
    prune(tmp_path, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged-step-00000020", "step-00000015"]


def test_full_disk_leaves_the_last_one(tmp_path: Path) -> None:
    save(tmp_path, 10)
    (tmp_path / "step-00000020.part").write_text("a file where a directory must go")
    with pytest.raises(CogViewError, match="no checkpoint could be written"):
        save(tmp_path, 20)
    assert damage(tmp_path / "step-00000010") is None


def test_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 5, 5)
    assert damage(tmp_path / "step-00000005") is None


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none", pytest.fail) is None
