"""Training a CogLM on a tiny data set whose pictures are a function of their captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cogview.config import dump_yaml
from cogview.errors import CogViewError
from cogview.generation.decoder import pack
from cogview.generation.engine import Engine
from cogview.generation.infilling import InfillRequest, fill
from cogview.generation.loop import SequenceRequest
from cogview.sequences import CogLMFormat
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.registry import read_recipe
from cogview.training.tasks.coglm import CogLMRecipe, CogLMTask, Strategies, sample_strategy
from cogview.training.trainer import Trainer
from cogview.transformer.attention import Prefix
from cogview.transformer.model import Transformer
from cogview.types import SamplingParams
from tests.training.coglm_runs import FIXED, recipe
from tests.training.runs import caption, picture

RECIPES = Path(__file__).parents[2] / "recipes"
GREEDY = SamplingParams(top_k=1)


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Transformer, CogLMFormat, Path]:
    directory = tmp_path_factory.mktemp("runs") / "run"
    asked = recipe(data)
    prepare_directory(asked, directory, False)
    task = CogLMTask(asked)
    Trainer(task, asked, directory).fit(False)
    return Transformer.from_directory(directory / "model"), task.format, directory


def test_one_model_draws_fills_and_describes(trained: tuple[Transformer, CogLMFormat, Path]) -> None:
    """After training it knows the function from captions to pictures in all directions, in both languages."""
    model, form, _ = trained
    engine = Engine(pack(model, slice(0, 8)))
    rows = slice(8, form.vocabulary.size)
    speaker = Engine(pack(model, rows))
    for kind in range(4):
        codes = picture(kind)
        for language in ("en", "zh"):
            words = list(caption(kind, language).pieces)
            [(_, drawn)] = engine.generate([SequenceRequest(form.image_prompt(words), 0, 0)], GREEDY)
            assert drawn.tolist() == codes.tolist()
            hole = InfillRequest(form.text_ids(words), codes, 0, 0)
            [filled] = fill(engine, form, [hole], [[False, True], [True, True]], GREEDY)
            assert filled.tolist() == codes.tolist()
            asked = form.caption_prompt(codes, language)
            ids, positions = (torch.from_numpy(x)[None] for x in (asked.ids, asked.positions))
            state = model(ids, positions, Prefix(asked.prefix))[:, -1]
            assert int(speaker.decoder.head(state).argmax()) == words[0]


def test_it_trains_in_half_precision_with_fp32_masters(data: Path, tmp_path: Path) -> None:
    """All-fp16, from the same start on the same batches: fp32's losses to rounding."""
    curves = []
    for precision, scaler in (("fp32", {}), ("fp16-o2", {"scale": 256.0})):
        fields = {"precision": precision, "loss_scaler": scaler, "steps": 8, "optimizer": {"lr": 0.002}}
        asked = recipe(data, intervals={"log": 1, "evaluate": 8, "sample": 0}, **fields)
        prepare_directory(asked, tmp_path / precision, False)
        Trainer(CogLMTask(asked), asked, tmp_path / precision).fit(False)
        lines = MetricsFile(tmp_path / precision / "metrics.jsonl").lines()
        curves.append([line["loss"] for line in lines])
    assert len(curves[0]) == 9 and curves[0][-2] < curves[0][0]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.01)


def test_the_run_says_what_it_was(trained: tuple[Transformer, CogLMFormat, Path], data: Path) -> None:
    model, form, directory = trained
    assert model.config.vocab_size == form.vocabulary.padded_size
    sequences = (directory / "model" / "training.json").read_text()
    assert '"kind": "coglm"' in sequences
    start = recipe(data, model=None, init=str(directory), steps=1)
    assert CogLMTask(start).config() == model.config


def test_batches_resume_and_differ(data: Path) -> None:
    """The state after a batch gives the next one again; chance is anew for every batch and rank."""
    task = CogLMTask(recipe(data))
    loader = task.loader(None)
    _, state = next(loader)
    second, _ = next(loader)
    again, _ = next(task.loader(state))
    assert all(torch.equal(second[name], again[name]) for name in second)
    third, _ = next(loader)
    assert not torch.equal(second["order"], third["order"])
    lengths = CogLMTask(recipe(data, pad_multiple=8))
    assert next(lengths.loader(None))[0]["inputs"].shape[1] % 8 == 0


def test_strategies_come_as_often_as_asked() -> None:
    rng = np.random.default_rng(0)
    chosen = [Strategies(drawing=2, captioning=1, editing=1).sample(rng) for _ in range(2000)]
    assert 0.45 < chosen.count("drawing") / 2000 < 0.55 and 0.2 < chosen.count("editing") / 2000 < 0.3
    assert {Strategies().sample(rng) for _ in range(50)} == {"drawing", "captioning"}


def test_edits_are_taught_on_boxes_when_asked(data: Path) -> None:
    """Only editing's: what mask prediction hides stays the paper's."""
    form = CogLMTask(recipe(data)).format.model_copy(update={"grid": (12, 12)})
    rng = np.random.default_rng(0)
    asked = Strategies(drawing=0, captioning=1, editing=1, edited="boxes")
    drawn = [sample_strategy(form, asked, rng) for _ in range(200)]
    hidden = {name: np.mean([mask.mean() for own, mask in drawn if own == name]) for name, _ in drawn}
    assert set(hidden) == {"captioning", "editing"} and hidden["captioning"] >= 0.75 > hidden["editing"]


def test_the_released_regions(data: Path) -> None:
    task = CogLMTask(recipe(data, strategies={"captioning": 1, "drawing": 0}))
    batch, _ = next(task.loader(None))
    assert (batch["inputs"][:, :4] < 8).all() and len(batch["text_at"])


def test_the_real_sizes_on_the_meta_device() -> None:
    """CogView2's CogLM has 5,902,307,328 parameters."""
    asked = read_recipe(RECIPES / "cogview2-coglm.yaml")
    assert isinstance(asked, CogLMRecipe) and asked.model is not None
    with torch.device("meta"):
        model = Transformer(asked.model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 5_902_307_328
    given = asked.format.model_dump(exclude={"controls", "multiple"})
    form = CogLMFormat.cogview2()
    assert CogLMFormat(vocabulary=form.vocabulary, grid=(20, 20), **given) == form


def test_wrong_recipes(data: Path, tmp_path: Path) -> None:
    for changes, said in (
        ({"strategies": {"drawing": 0, "captioning": 0}}, "nothing would be learned"),
        ({"model": None}, "model: missing"),
        ({"strategies": {"share": 1.5}}, "share"),
        ({"format": {"text_slot": 3}}, "text_slot"),
    ):
        with pytest.raises(CogViewError, match=said):
            recipe(data, **changes)
    (tmp_path / "recipe.yaml").write_text(dump_yaml(recipe(data, model=FIXED | {"vocab_size": 20})))
    with pytest.raises(CogViewError, match="vocab_size: 20 is too small"):
        CogLMTask(read_recipe(tmp_path / "recipe.yaml")).build()
