"""A run's directory belongs to one process at a time, and a restart removes only what a run left there."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cogview.cli.app import main
from cogview.config import dump_yaml
from cogview.training.locks import LOCK, locked
from cogview.training.train_on.state import STATE, restart
from tests.generation import tiny
from tests.training.runs import VOCABULARY, caption, recipe, write_data


def test_a_second_training_in_a_runs_directory_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for folder in (data, run):
        folder.mkdir()
    write_data(data, caption, VOCABULARY, "1" * 16, "2" * 64)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe(data, steps=2)), "utf-8")
    words = ["train", str(tmp_path / "recipe.yaml"), "--out", str(run)]
    with locked(run):
        assert main(words) == 2
    assert f"{run}: another process trains there" in capsys.readouterr().err
    assert main(words) == 0
    before = (run / "metrics.jsonl").read_bytes()
    with locked(run):
        assert main([*words, "--resume"]) == 2
    assert (run / "metrics.jsonl").read_bytes() == before


def pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (36, 36), (80 * number, 0, 0)).save(folder / f"red {number}.png")
    return folder


def test_train_on_has_its_work_directory_to_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a directory that another process works in nor one that holds something else."""
    folder, work = pictures(tmp_path / "pictures"), tmp_path / "m.work"
    words = ["train-on", str(folder), "--out", str(tmp_path / "m"), "--size", "tiny"]
    work.mkdir()
    with locked(work):
        assert main(words) == 2
    assert "another process trains there" in capsys.readouterr().err
    assert {path.name for path in work.iterdir()} <= {LOCK}

    names = sorted(path.name for path in folder.iterdir())
    assert main([*words, "--work", str(folder)]) == 2
    assert f"{folder} already exists; choose another --work" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == names


def test_a_restart_leaves_what_others_put_there(tmp_path: Path) -> None:
    out = tiny.write(tmp_path / "made")
    work = out.with_name(out.name + ".work")
    (work / "tokens" / "shard-00000").mkdir(parents=True)
    for path in (work / STATE, work / "text.model", work / "thesis.txt", out / "thesis.txt"):
        path.write_text("mine", "utf-8")
    (out / "samples.png").touch()
    (work / "transformer").symlink_to(tmp_path / "made" / "parts")  # someone's disk with more room
    restart(out)
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "made" / "parts" / "base").is_dir()

    with locked(work):
        (work / STATE).touch()
        with pytest.raises(ValueError, match="another process trains there"):
            restart(out)
    assert (work / STATE).exists()
