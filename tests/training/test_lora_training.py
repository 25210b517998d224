"""Adapters through the training loop: only they move, a stopped run is the same run, and they draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogview.checkpoints import provenance
from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.data.build import BuildSettings, build
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.errors import CogViewError
from cogview.training.checkpoint.directory import list_checkpoints
from cogview.training.tasks.transformer import TransformerTask
from cogview.training.trainer import Trainer
from cogview.transformer.lora import adapter_parameters
from tests.generation import tiny
from tests.training.runs import fit, recipe

LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.1}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return ModelBundle(tiny.write(tmp_path_factory.mktemp("family")))


def build_tokens(folder: Path, family: ModelBundle) -> Path:
    """Forty coloured squares with captions, in the family's own tokens."""
    (folder / "pictures").mkdir()
    for number in range(40):
        name = folder / "pictures" / str(number)
        Image.new("RGB", (16, 16), ("red", "blue")[number % 2]).save(f"{name}.png")
        Path(f"{name}.txt").write_text(("a red circle", "a blue square")[number % 2])
    source = open_source(folder / "pictures", validation=0.2)
    settings = BuildSettings(preprocessing=Preprocessing(size=16))
    build(source, folder / "tokens", family.image_tokenizer(), family.text_tokenizer(), settings)
    return folder / "tokens"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, family: ModelBundle) -> Path:
    return build_tokens(tmp_path_factory.mktemp("tokens"), family)


def given(data: Path, family: ModelBundle, **fields: Any) -> Any:
    defaults = {
        "model": None, "init": str(family.directory), "lora": LORA, "format": {"text_slots": 32}, "steps": 12,
        "intervals": {"log": 1, "evaluate": 12, "sample": 0, "checkpoint": 4},
    }  # fmt: skip
    return recipe(data, **{**defaults, **fields})


def test_an_adapter_learns_and_the_model_stays(data: Path, family: ModelBundle, tmp_path: Path) -> None:
    asked = given(data, family, steps=40, ema=0.9)
    lines = [line for line in fit(asked, tmp_path / "run") if line["kind"] == "train"]
    assert np.mean([line["loss"] for line in lines[-5:]]) < 0.9 * lines[0]["loss"]
    out = tmp_path / "run" / "model"
    assert {path.name for path in out.iterdir()} == {"lora.json", "lora.safetensors", "training.json"}
    trainer = Trainer(TransformerTask(asked), asked, tmp_path / "other")
    trained = {id(p) for phase in trainer.phases for p in phase.parameters}
    adapters = dict(adapter_parameters(trainer.model))
    assert {id(p) for p in adapters.values()} == trained
    taking = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert taking == set(adapters)
    before = dict(family.transformer("base").named_parameters())
    for name, parameter in trainer.model.named_parameters():
        if name not in adapters:
            assert torch.equal(parameter, before[name.replace(".base.", ".")])


def test_a_stopped_adapter_goes_on_as_if_nothing_had_happened(
    data: Path, family: ModelBundle, tmp_path: Path
) -> None:
    asked = given(data, family)
    whole, cut = fit(asked, tmp_path / "whole"), tmp_path / "cut"
    fit(asked, cut)
    for newest in list_checkpoints(cut / "checkpoints")[1:]:
        for path in newest.iterdir():
            path.unlink()
        newest.rmdir()
    again = fit(asked, cut, resume=True)
    for first, second in zip(whole, again, strict=True):
        assert first["step"] == second["step"] and first.get("loss") == second.get("loss")
    files = [run / "model" / "lora.safetensors" for run in (tmp_path / "whole", cut)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_generate_draws_with_an_adapter_merged_or_beside(
    data: Path, family: ModelBundle, tmp_path: Path
) -> None:
    run = tmp_path / "ink"
    fit(given(data, family, steps=30), run)
    start = ["--from", str(family.directory)]
    merged, beside = tmp_path / "merged", tmp_path / "beside"
    assert main(["assemble", str(merged), *start, "--base", str(run)]) == 0
    assert main(["assemble", str(beside), *start, "--lora", f"ink={run}"]) == 0
    assert ModelBundle(beside).config.adapters == {"ink": "lora-ink"}

    def drawn(name: str, *more: str) -> tuple[bytes, provenance.Provenance]:
        out = tmp_path / name
        assert main(["generate", "a red circle", "--seed", "3", "-o", str(out), *more]) == 0
        (path,) = out.glob("*.png")
        told = provenance.read(path)
        assert told is not None
        return Image.open(path).tobytes(), told

    plain, _ = drawn("a", "--model", str(family.directory))
    apart, told = drawn("b", "--model", str(family.directory), "--lora", str(run))
    named, _ = drawn("c", "--model", str(beside), "--lora", "ink")
    whole, _ = drawn("d", "--model", str(merged))
    off, _ = drawn("e", "--model", str(beside), "--lora", "ink", "--lora-strength", "0")
    assert apart != plain and named == apart and off == plain
    assert whole == apart  # merged weights are stored in float16: no token flips at this size
    lora = told.settings["lora"]
    assert isinstance(lora, dict) and lora["name"] == "ink" and lora["strength"] == 1.0


def test_what_cannot_work_is_said(
    data: Path, family: ModelBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CogViewError, match="give it as init"):
        given(data, family, init=None, model={"layers": 1, "hidden": 16, "heads": 2})
    with pytest.raises(CogViewError, match="model: missing"):
        given(data, family, init=None, lora=None)
    with pytest.raises(CogViewError, match=r"lora\.rank"):
        given(data, family, lora={"rank": 0})
    (tmp_path / "built").mkdir()
    other = build_tokens(tmp_path / "built", family)
    index = json.loads((other / "index.json").read_text())
    (other / "index.json").write_text(json.dumps(index | {"image_tokenizer": "1" * 16}))
    with pytest.raises(CogViewError, match="another image tokenizer"):
        fit(given(other, family), tmp_path / "run")
    with pytest.raises(CogViewError, match="is no model"):
        fit(given(data, family, init=str(tmp_path / "nothing")), tmp_path / "none")
    for words, said in (
        (["--lora", str(tmp_path)], "no adapter"),
        (["--lora", "ink"], "it has none"),
    ):
        assert main(["generate", "x", "--model", str(family.directory), *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert json.loads((family.directory / "family.json").read_text())["adapters"] == {}
