"""What cannot work on several processes is said in one line before anything is loaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.config import validate
from cogview.data.loader import shared_out
from cogview.errors import CogViewError
from cogview.training.parallel import Parallel
from cogview.training.parallel.requirements import check_launch
from cogview.training.registry import task_class
from cogview.training.tasks.image_tokenizer import ImageTokenizerRecipe
from cogview.training.tasks.transformer import TransformerTask
from tests.training.parallel.world import recipe, run


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_row_falls_to_one_rank(rows: int, world: int) -> None:
    whole = np.arange(100, 100 + rows)
    parts = [shared_out(whole, rank, world) for rank in range(world)]
    assert sorted(row for own, real in parts if real for row in own) == whole.tolist()
    assert all(own.tolist() == whole[:1].tolist() for own, real in parts if not real)


@pytest.mark.parametrize(
    ("world", "fields", "said"),
    [
        (2, {}, "parallel.kind is none"),
        (12, {"parallel": {"kind": "ddp"}}, "batch_size: 10 sequences cannot be shared by 12 ranks"),
        (4, {"parallel": {"kind": "hsdp", "replicas": 3}}, "parallel.replicas"),
        (2, {"parallel": {"kind": "ddp"}, "device": "cuda:1"}, "device: cuda:1"),
        (4, {"parallel": {"tensor": 2}}, "parallel.kind is none"),
        (4, {"parallel": {"kind": "ddp", "tensor": 3}}, "parallel.tensor: 4 ranks"),
        (2, {"parallel": {"tensor": 2}, "optimizer": {"kind": "muon"}}, "muon does not work with"),
    ],
)
def test_what_does_not_fit(
    world: int, fields: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    asked = recipe(tmp_path, **fields)
    with pytest.raises(CogViewError, match=said) as caught:
        check_launch(asked, TransformerTask.parallel)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parallel", "said"),
    [
        ({"kind": "fsdp"}, "image_tokenizer trains with ddp, not with fsdp"),
        ({"kind": "ddp", "tensor": 2}, "image_tokenizer has no transformer's blocks to split"),
    ],
)
def test_a_tokenizer_has_no_blocks(
    parallel: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    fields = {
        "task": "image_tokenizer",
        "name": "x",
        "data": str(tmp_path),
        "steps": 1000,
        "parallel": parallel,
    }
    asked = validate(ImageTokenizerRecipe, fields, "test")
    with pytest.raises(CogViewError, match=said):
        check_launch(asked, task_class(asked.task).parallel)


def test_heads_that_cannot_be_shared_are_told(data: Path, tmp_path: Path) -> None:
    odd = recipe(data, parallel={"tensor": 2}, model={"layers": 1, "hidden": 33, "heads": 3})
    said = run(2, (odd, tmp_path / "run"))
    assert all("parallel.tensor: 2 ranks cannot share model.heads, 3, evenly" in line for line in said)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "ddp", "replicas": 2},
        {"kind": "deepspeed", "tensor": 2},
        {"kind": "hsdp"},
        {"kind": "horovod"},
    ],
)
def test_replicas_belong_to_hsdp(fields: dict[str, Any]) -> None:
    with pytest.raises(CogViewError, match="test: "):
        validate(Parallel, fields, "test")
