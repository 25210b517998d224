"""DeepSpeed's ZeRO-2 and ZeRO-3 follow the same curve, and their checkpoints fit any engine (an extra)."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogview.errors import CogViewError
from cogview.training.parallel.requirements import check_launch
from cogview.training.tasks.transformer import TransformerTask
from tests.training.parallel.world import SAVED, curve, cut_back, recipe, run, train


def test_without_it_one_line_says_so(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("cogview.training.parallel.requirements.find_spec", lambda name: None)
    with pytest.raises(CogViewError, match=r"cogview\[deepspeed\]"):
        check_launch(recipe(data, parallel={"kind": "deepspeed"}), TransformerTask.parallel)


@pytest.mark.parametrize(
    "fields",
    [{"optimizer": {"kind": "muon"}}, {"precision": "fp16"}, {"ema": 0.9}, {"guard": {"spike": 3.0}}],
    ids=lambda x: next(iter(x)),
)
def test_what_it_cannot_do(data: Path, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("cogview.training.parallel.requirements.find_spec", lambda name: object())
    with pytest.raises(CogViewError, match="does not work with"):
        check_launch(recipe(data, parallel={"kind": "deepspeed"}, **fields), TransformerTask.parallel)


@pytest.mark.parametrize("zero", [2, 3])
def test_curve_and_checkpoints(zero: int, data: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    """On two ranks; from a checkpoint half way again, and on one process without DeepSpeed."""
    pytest.importorskip("deepspeed")
    given = recipe(data, parallel={"kind": "deepspeed", "zero": zero})
    assert run(2, (given, tmp_path / "run")) == ["", ""]
    again, single = (cut_back(tmp_path / "run", tmp_path / name) for name in ("again", "single"))
    assert run(2, (given, again)) == ["", ""]
    train(recipe(data), single)
    assert (tmp_path / "said-0.txt").read_text().count(f"resuming at step {SAVED}") == 2
    for directory in (tmp_path / "run", again, single):
        np.testing.assert_allclose(curve(directory), curve(alone["plain"]), rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            curve(directory, "evaluate"), curve(alone["plain"], "evaluate"), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize("zero", [2, 3])
def test_curve_on_four_ranks(zero: int, data: Path, alone: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    given = recipe(data, parallel={"kind": "deepspeed", "zero": zero})
    assert run(4, (given, tmp_path / "run")) == [""] * 4
    for kind in ("train", "evaluate"):
        np.testing.assert_allclose(
            curve(tmp_path / "run", kind), curve(alone["plain"], kind), rtol=0, atol=1e-4
        )
