"""Training direct and iterative super-resolution on tiny data whose large pictures follow from small ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

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
from cogview.generation.hierarchical import Upscaler, direct_super_resolution, iterative_super_resolution
from cogview.sequences.coglm import CogLMFormat
from cogview.sequences.super_resolution import DirectFormat, IterativeFormat, upscaler_config
from cogview.training.checkpoint.directory import latest_checkpoint
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.tasks.upscaling import (
    DirectRecipe,
    DirectTask,
    IterativeRecipe,
    IterativeTask,
    UpscalingRecipe,
    sample_masks,
)
from cogview.training.trainer import Trainer
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from cogview.vocabulary import COGVIEW2_CONTROLS, Vocabulary

VOCABULARY = Vocabulary(image_codes=8, text_pieces=20, controls=COGVIEW2_CONTROLS, multiple=1)
RECIPES = Path(__file__).parents[2] / "recipes"
BASE = CogLMFormat(vocabulary=VOCABULARY, text_slots=6, grid=(2, 3))
CONFIG = TransformerConfig(
    layers=2, hidden=32, heads=2, vocab_size=31, max_positions=BASE.max_positions, norm_relax="none"
)


def large(small: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each code becomes 3 x 3: itself and up to eight more."""
    more = np.tile(np.arange(9).reshape(3, 3), small.shape)
    grown: NDArray[np.int64] = np.kron(small, np.ones((3, 3), dtype=np.int64))
    return (grown + more) % 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 pictures of 6 x 9 codes over 2 x 3, and a CogLM beside them."""
    directory, rng = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)
    items = []
    for number in range(64):
        small = rng.integers(0, 8, (2, 3))
        captions = (TokenCaption((number % 20, 3), "en", "plain"),)
        split = "val" if number >= 48 else "train"
        items.append(TokenItem(f"{number}", large(small).ravel(), captions, "a", split, small.ravel()))
    layout = ShardLayout((6, 9), "uint8", "uint16", ("en",), ("a",), ("train", "val"))
    index = ShardIndex(
        items=64,
        captions=64,
        grid=(6, 9),
        context_grid=(2, 3),
        codes_type="uint8",
        texts_type="uint16",
        vocabulary=Vocabulary(image_codes=8, text_pieces=20),
        preprocessing=Preprocessing(size=32),
        image_tokenizer="1" * 16,
        text_tokenizer="2" * 64,
        languages=("en",),
        sources={"a": 64},
        splits={"train": 48, "val": 16},
        shards=(write_shard(directory, "shard-00000", items, layout),),
    )
    write_atomically(directory / INDEX, index.model_dump_json())
    coglm(directory / "coglm", BASE.model_dump(mode="json"))
    return directory


def coglm(directory: Path, sequences: dict[str, Any]) -> None:
    torch.manual_seed(1)
    Transformer(CONFIG).save(directory)
    facts = {"image_tokenizer": "1" * 16, "text_tokenizer": "2" * 64, "sequences": sequences}
    (directory / "training.json").write_text(json.dumps(facts))


def fields(data: Path, task: str, **changes: Any) -> dict[str, Any]:
    defaults = {
        "task": task, "name": "tiny", "data": str(data), "init": str(data / "coglm"), "steps": 60,
        "batch_size": 16, "device": "cpu", "window": [3, 3], "mixture": {"empty": 0.5},
        "optimizer": {"kind": "adamw", "lr": 0.01}, "validation": {"items": 16}, "threads": 1,
        "intervals": {"log": 50, "evaluate": 60, "sample": 0, "checkpoint": 60},
    }  # fmt: skip
    return {**defaults, **changes}


def direct(data: Path, **changes: Any) -> DirectTask:
    given = fields(data, "direct_super_resolution", across=[3, 3], **changes)
    return DirectTask(validate(DirectRecipe, given, "test"))


def iterative(data: Path, **changes: Any) -> IterativeTask:
    given = fields(data, "iterative_super_resolution", text_slots=3, **changes)
    return IterativeTask(validate(IterativeRecipe, given, "test"))


def trained(task: DirectTask | IterativeTask, directory: Path) -> tuple[Transformer, dict[str, Any]]:
    """The exported model and the sequences that stand beside it."""
    prepare_directory(task.recipe, directory, False)
    Trainer(task, task.recipe, directory).fit()
    facts = json.loads((directory / "model" / "training.json").read_text())
    return Transformer.from_directory(directory / "model"), facts["sequences"]


def test_direct_starts_as_the_coglm_and_trains_the_decoder_alone(data: Path) -> None:
    task = direct(data)
    model = task.build()
    assert isinstance(model, Transformer)
    task.initialize(model, data)
    base = Transformer.from_directory(data / "coglm")
    begun, known = model.state_dict(), base.state_dict()
    for own, source in (("decoder_qkv.weight", "qkv.weight"), ("decoder_out.bias", "out.bias")):
        assert torch.equal(begun[f"blocks.1.attention.{own}"], known[f"blocks.1.attention.{source}"])
    places = begun["extra_positions.weight"].view(6, 9, -1)
    first = BASE.begin_position + 1
    assert torch.equal(places[5, 8], base.positions.weight[first + 5])
    assert torch.equal(places[2, 3], base.positions.weight[first + 1])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    chosen = dict(task.parameters(model, "model"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in chosen)
    batch, _ = next(task.loader(None))
    optimizer = torch.optim.SGD(chosen.values(), lr=1.0)
    loss, _ = task.loss(model, batch, 0, "model")
    torch.autograd.backward(loss)
    optimizer.step()
    changed = {name for name, x in model.state_dict().items() if not torch.equal(x, before[name])}
    assert changed == set(chosen)
    assert all(".decoder_" in name or name == "extra_positions.weight" for name in changed)


def test_direct_learns_what_follows_from_the_small_picture(data: Path, tmp_path: Path) -> None:
    model, sequences = trained(direct(data, trained="all", steps=120), tmp_path / "run")
    form = DirectFormat.model_validate(sequences)
    small = np.random.default_rng(9).integers(0, 8, (4, 2, 3))
    drawn = direct_super_resolution(
        Upscaler(model, form), [[1, 3]] * 4, small, settings=SamplingParams(top_k=1)
    )
    expected = np.stack([large(picture).ravel() for picture in small])
    assert (drawn == expected).mean() > 0.8


def test_iterative_learns_what_its_neighbours_say(data: Path, tmp_path: Path) -> None:
    fast = {"kind": "muon", "lr": 0.02, "adam_lr": 0.01, "scale": "spectral"}
    model, sequences = trained(iterative(data, steps=120, optimizer=fast), tmp_path / "run")
    form = IterativeFormat.model_validate(sequences)
    expected = np.stack(
        [large(picture).ravel() for picture in np.random.default_rng(9).integers(0, 8, (4, 2, 3))]
    )
    spoilt = expected.copy()
    spoilt.reshape(4, 6, 9)[:, 0, 2] = (expected.reshape(4, 6, 9)[:, 0, 2] + 3) % 8  # drawn again, in turn 1
    drawn = iterative_super_resolution(
        Upscaler(model, form), [[1, 3]] * 4, spoilt, settings=SamplingParams(top_k=1)
    )
    assert (drawn == expected).mean() > 0.6  # far more than 36 % kept and chance


@pytest.mark.parametrize("make", [direct, iterative])
def test_both_train_in_half_precision_with_fp32_masters(
    make: Callable[..., DirectTask | IterativeTask], data: Path, tmp_path: Path
) -> None:
    """All-fp16: what is trained is kept in fp32 in checkpoints, the frozen base in fp16 as it computes."""
    fields = {"precision": "fp16-o2", "steps": 6, "loss_scaler": {"scale": 256.0}}
    fields["intervals"] = {"log": 1, "evaluate": 6, "sample": 0, "checkpoint": 6}
    task = make(data, **fields)
    trained(task, tmp_path / "run")
    lines = MetricsFile(tmp_path / "run" / "metrics.jsonl").lines()
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses) == 6 and max(losses) < 3.0 and not any(line.get("skipped") for line in lines)
    found = latest_checkpoint(tmp_path / "run" / "checkpoints", print)
    assert found is not None
    chosen = {name for name, _ in task.parameters(task.build(), "model")}
    kinds = {name: value.dtype for name, value in found.tensors["model"].items()}
    assert {name for name, kind in kinds.items() if kind == torch.float32} == chosen
    assert set(kinds.values()) <= {torch.float32, torch.float16}


def test_hidden_parts_have_the_ratios_that_are_asked(data: Path) -> None:
    hidden = sample_masks(400, 50, (0.2, 0.9), torch.Generator().manual_seed(0)).sum(1)
    assert set(hidden.tolist()) == {10, 45}
    assert 150 < (hidden == 10).sum() < 250
    assert sample_masks(3, 4, (0.01,), None).sum(1).tolist() == [1, 1, 1]


@pytest.mark.parametrize("make", [direct, iterative])
def test_attention_dropout_may_differ_from_the_coglms(
    make: Callable[..., DirectTask | IterativeTask], data: Path
) -> None:
    plain, other = make(data).config(), make(data, attention_dropout=0.25).config()
    assert (plain.attention_dropout, other.attention_dropout) == (CONFIG.attention_dropout, 0.25)
    assert other.model_copy(update={"attention_dropout": plain.attention_dropout}) == plain


def test_validation_is_the_same_twice(data: Path) -> None:
    task = iterative(data)
    torch.manual_seed(0)
    model = task.build().eval()
    with torch.no_grad():
        first = task.evaluate(model)
        torch.rand(3)
        assert task.evaluate(model) == first
    assert set(first) == {"loss", "image_loss", "accuracy"}


def test_what_does_not_fit_is_told_before_training(data: Path, tmp_path: Path) -> None:
    coglm(tmp_path / "other", {**BASE.model_dump(mode="json"), "grid": [3, 3]})
    with pytest.raises(CogViewError, match=r"small images of \(2, 3\) codes"):
        direct(data, init=str(tmp_path / "other")).build()
    coglm(tmp_path / "none", {})
    with pytest.raises(CogViewError, match="is no CogLM"):
        direct(data, init=str(tmp_path / "none")).build()
    with pytest.raises(CogViewError, match="init"):
        direct(data, init=None)


@pytest.mark.parametrize("size", ["", "-released"])
@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_the_recipes_are_valid(name: str, size: str) -> None:
    kinds: dict[str, type[UpscalingRecipe]] = {"direct": DirectRecipe, "iterative": IterativeRecipe}
    path = f"cogview2-{name}{size}.yaml" if size else f"pictogram/first/{name}.yaml"
    found = read_yaml(kinds[name], RECIPES / path)
    assert found.window == ((9, 5) if size else (9, 9))


def test_the_releases_size_on_the_meta_device() -> None:
    """1.8 of 7.7 billion parameters are the decoder's: 48 layers of 4 h^2 + 4 h, and 3,600 positions."""
    with torch.device("meta"):
        model = Transformer(upscaler_config(TransformerConfig.cogview2_6b(), DirectFormat.cogview2()))
    own = [x.numel() for name, x in model.named_parameters() if ".decoder_" in name or "extra_" in name]
    assert sum(own) == 48 * (4 * 3072**2 + 4 * 3072) + 3600 * 3072
