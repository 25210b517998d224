"""Checkpoints written by torch.distributed.checkpoint, seen from one process: form, damage, a full disk."""

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import (
    TrainState,
    damage,
    latest_checkpoint,
    list_checkpoints,
    prune,
)
from cogview.training.checkpoint.sharded import read_shards, shard_sizes, write_shards
from cogview.training.checkpoint.writer import CheckpointWriter
from cogview.training.parallel.ranks import Ranks

TENSORS = {
    "model": {"w": torch.arange(6.0).reshape(2, 3).T.contiguous(), "n": torch.tensor(3)},
    "optimizer": {"model/w:exp_avg": torch.full((3, 2), 0.5), "model/w:step": torch.tensor(7.0)},
    "ema": {},
}


def blank() -> dict[str, dict[str, Any]]:
    return {group: {k: torch.zeros_like(v) for k, v in named.items()} for group, named in TENSORS.items()}


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    path = write_shards(tmp_path, TrainState(step=7, ranks=2), TENSORS, Ranks())
    assert damage(path) is None and path.name == "step-00000007"
    found = latest_checkpoint(tmp_path, pytest.fail)
    assert found is not None and found.sharded and found.state.ranks == 2
    sizes = shard_sizes(path)
    assert sizes["optimizer"]["model/w:step"] == (torch.Size([]), torch.float32)
    into = blank()
    read_shards(path, into, Ranks())
    for group, named in TENSORS.items():
        for name, value in named.items():
            assert torch.equal(into[group][name], value)
    assert not [file for file in path.iterdir() if file.suffix not in (".safetensors", ".json")]


def test_another_model_is_one_line(tmp_path: Path) -> None:
    path = write_shards(tmp_path, TrainState(step=7), TENSORS, Ranks())
    for wrong in ({"model": {"v": torch.zeros(2)}}, {"model": {"w": torch.zeros(9, 9)}}):
        with pytest.raises(CogViewError, match="does not fit this run") as caught:
            read_shards(path, wrong, Ranks())
        assert "\n" not in str(caught.value)


def _save_with_little_room(directory: Path, sharded: bool, background: bool, queue: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as a full disk, in one process
    writer = CheckpointWriter(directory, Ranks(), sharded=sharded, background=background, keep=3, every=0)
    try:
        writer.save(TrainState(step=20), {"model": {"w": torch.zeros(100_000)}})
        writer.wait()
    except CogViewError as error:
        queue.put(str(error))
    queue.put("")


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_is_one_line_and_spares_the_last(tmp_path: Path, sharded: bool, background: bool) -> None:
    write_shards(tmp_path, TrainState(step=10), TENSORS, Ranks())
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["torch", "cogview.training.checkpoint.sharded"])
    queue = processes.Queue()
    process = processes.Process(target=_save_with_little_room, args=(tmp_path, sharded, background, queue))
    process.start()
    said = queue.get(timeout=120)
    process.join()
    assert str(tmp_path) in said and "make room" in said and "\n" not in said
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010"]
    assert damage(tmp_path / "step-00000010") is None


@pytest.mark.parametrize("sharded", [False, True])
def test_in_the_background_the_tensors_are_those_of_the_moment(tmp_path: Path, sharded: bool) -> None:
    writer = CheckpointWriter(tmp_path, Ranks(), sharded=sharded, background=True, keep=2, every=4)
    weights = torch.zeros(50, 4)
    for step in range(1, 8):
        weights += 1
        writer.save(TrainState(step=step), {"model": {"w": weights, "step": torch.tensor(step)}})
        weights += 0.5  # goes on before it is written
    writer.wait()
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [4, 6, 7]
    found = latest_checkpoint(tmp_path, pytest.fail)
    assert found is not None
    held = dict(found.tensors.get("model", {"w": torch.zeros(50, 4), "step": torch.tensor(0)}))
    if sharded:
        read_shards(found.directory, {"model": held}, Ranks())
    assert torch.equal(held["w"], torch.full((50, 4), 7 + 6 * 0.5)) and int(held["step"]) == 7


def test_keeps_every_so_many(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20, 25):
        write_shards(tmp_path, TrainState(step=step), {"model": {"w": torch.zeros(1)}}, Ranks())
    prune(tmp_path, 1, every=10)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [10, 20, 25]
