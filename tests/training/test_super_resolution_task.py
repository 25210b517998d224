"""Training super-resolution on tiny data whose large pictures are a function of their small ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cogview.checkpoints.bundle import ModelBundle
from cogview.config import read_yaml, validate
from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    write_atomically,
    write_shard,
)
from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.window_super_resolution import SmallImage, upscale_codes
from cogview.sequences import SequenceFormat
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Trainer
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import Vocabulary

VOCABULARY = Vocabulary(image_codes=8, text_pieces=20)
RECIPE = Path(__file__).parents[2] / "recipes" / "pictogram" / "first" / "super_resolution.yaml"


def large(small: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each code becomes 2 x 2: itself and one, two, three more."""
    more = np.tile([[0, 1], [2, 3]], small.shape)
    grown: NDArray[np.int64] = np.kron(small, np.ones((2, 2), dtype=np.int64))
    return (grown + more) % 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 pictures of 8 x 8 codes over 4 x 4."""
    directory, rng = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    items = []
    for number in range(64):
        small = rng.integers(0, 8, (4, 4))
        captions = (TokenCaption((number % 20, 3), "en", "plain"),)
        split = "val" if number >= 48 else "train"
        items.append(TokenItem(f"{number}", large(small).ravel(), captions, "a", split, small.ravel()))
    layout = ShardLayout((8, 8), "uint8", "uint16", ("en",), ("a",), ("train", "val"))
    index = ShardIndex(
        items=64,
        captions=64,
        grid=(8, 8),
        context_grid=(4, 4),
        codes_type="uint8",
        texts_type="uint16",
        vocabulary=VOCABULARY,
        preprocessing=Preprocessing(size=32),
        image_tokenizer="1" * 16,
        text_tokenizer="2" * 64,
        languages=("en",),
        sources={"a": 64},
        splits={"train": 48, "val": 16},
        shards=(write_shard(directory, "shard-00000", items, layout),),
    )
    write_atomically(directory / INDEX, index.model_dump_json())
    return directory


def recipe(data: Path, **fields: Any) -> TransformerRecipe:
    form = {"kind": "super_resolution", "window": [4, 4], "text_slots": 6, "context_weight": 0.0}
    defaults = {
        "task": "transformer", "name": "tiny", "data": str(data), "format": form, "mixture": {"empty": 0.5},
        "model": {"layers": 2, "hidden": 32, "heads": 2}, "steps": 180, "batch_size": 16, "device": "cpu",
        "optimizer": {"kind": "muon", "lr": 0.02}, "validation": {"items": 16}, "threads": 1,
        "intervals": {"log": 50, "evaluate": 180, "sample": 0, "checkpoint": 180},
    }  # fmt: skip
    return validate(TransformerRecipe, {**defaults, **fields}, "test")


def test_learns_to_enlarge(data: Path, tmp_path: Path) -> None:
    """From windows of 4 x 4 over 2 x 2 codes; then a picture of 6 x 10 codes, unseen, is enlarged exactly."""
    given, run = recipe(data), tmp_path / "run"
    prepare_directory(given, run, False)
    Trainer(TransformerTask(given), given, run).fit()
    last = [line for line in MetricsFile(run / "metrics.jsonl").lines() if line["kind"] == "evaluate"][-1]
    assert last["image_loss"] < 0.1 < np.log(8)
    facts = json.loads((run / "model" / "training.json").read_text())
    form = SequenceFormat.model_validate(facts["sequences"])
    assert (form.kind, form.grid, form.context_grid) == ("super_resolution", (4, 4), (2, 2))
    engine = Engine(pack(Transformer.from_directory(run / "model"), slice(0, 8)))
    small = np.random.default_rng(9).integers(0, 8, (3, 5))
    drawn = dict(upscale_codes(engine, form, [SmallImage((), small, 0, 0)], SamplingParams(top_k=1)))[0]
    assert (drawn == large(small)).mean() > 0.97


def test_a_batch_holds_windows_and_what_lies_under_them(data: Path) -> None:
    task = TransformerTask(recipe(data, format={"kind": "super_resolution", "text_slots": 6}))
    assert task.format.grid == (4, 4) and task.format.context_grid == (2, 2)  # as many as the small pictures
    batch, _ = next(task.loader(None))
    second = VOCABULARY.control("[BOI2]")
    for ids, targets in zip(batch["inputs"].numpy(), batch["targets"].numpy(), strict=True):
        codes = targets[np.flatnonzero(ids == second)[0] :][:16].reshape(4, 4)
        first = np.flatnonzero(ids == VOCABULARY.control("[BOI1]"))[0] + 1
        assert np.array_equal(codes, large(ids[first : first + 4].reshape(2, 2)))


def test_context_weight_leaves_the_small_picture_out(data: Path) -> None:
    """Only the text's weight before [ROI2] and the codes' after it are trained where both are 0."""
    given = {"kind": "super_resolution", "text_slots": 6, "text_weight": 0.0, "context_weight": 0.0}
    batch, _ = next(TransformerTask(recipe(data, format=given)).loader(None))
    assert torch.equal(batch["weights"].sum(1), torch.full((16,), 16.0))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"kind": "super_resolution", "window": [3, 4]}, "no window of 3 x 4 codes in its 8 x 8"),
        ({"kind": "super_resolution", "window": [10, 4]}, "at most as large"),
        ({"kind": "text_to_image", "window": [4, 4]}, "window belongs to super_resolution"),
    ],
)
def test_mistakes_are_named(data: Path, form: dict[str, Any], message: str) -> None:
    with pytest.raises(CogViewError, match=message):
        TransformerTask(recipe(data, format=form)).build()


def test_data_without_small_pictures(data: Path, tmp_path: Path) -> None:
    plain = json.loads((data / INDEX).read_text()) | {"context_grid": None}
    for path in data.glob("shard-00000"):
        (tmp_path / "shard-00000").symlink_to(path)
    (tmp_path / INDEX).write_text(json.dumps(plain))
    with pytest.raises(CogViewError, match="no small images; build it again with --super-resolution"):
        TransformerTask(recipe(tmp_path)).build()


def test_the_default_models_recipe_fits_its_base() -> None:
    """It starts from the packaged family's base, whose windows and positions suffice."""
    given = read_yaml(TransformerRecipe, RECIPE)
    family = ModelBundle.find(str(given.init))
    base = family.role("base").sequences
    assert isinstance(base, SequenceFormat)
    rows, columns = base.grid
    form = SequenceFormat(
        vocabulary=base.vocabulary,
        grid=base.grid,
        context_grid=(rows // 2, columns // 2),
        **given.format.model_dump(exclude={"window"}),
    )
    assert (form.text_slots, form.image_positions) == (base.text_slots, base.image_positions)
    assert family.check("base").max_positions >= form.max_positions
