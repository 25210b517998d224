"""The papers' full-size recipes: shapes without memory; each run small from an imported synthetic release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cogview.checkpoints.bundle import ModelBundle
from cogview.cli.app import main
from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.sequences import CogLMFormat, SequenceFormat
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from cogview.training.registry import read_recipe
from cogview.training.tasks.coglm import CogLMRecipe
from cogview.training.tasks.image_tokenizer import ImageTokenizerRecipe
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.transformer.config import TransformerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary
from tests.importers import release1, release2
from tests.training.test_fashion_and_style import ROOT, fit

RECIPES = ROOT / "recipes"

# ------------------------------------------------------------------------------------------------ full size


def test_the_image_tokenizer_is_the_papers() -> None:
    found = read_recipe(RECIPES / "cogview-image-tokenizer.yaml")
    assert isinstance(found, ImageTokenizerRecipe) and found.model == ImageTokenizerConfig.cogview()
    assert (found.warmup_steps, found.restart_every, found.loss.l1, found.loss.perceptual) == (0, 0, 0.0, ())
    with torch.device("meta"):
        images = ImageTokenizer(found.model)
        vectors = images.features(torch.empty(1, 3, 256, 256))
        assert vectors.shape == (1, 32, 32, 256) and images.decode_vectors(vectors).shape == (1, 3, 256, 256)
    state = images.state_dict()
    count = sum(tensor.numel() for name, tensor in state.items() if not name.endswith("usage"))
    assert count == 23_237_379  # the release's, whose codebook does not count how often codes are used


@pytest.mark.parametrize(
    ("name", "context", "length"),
    [("cogview-caption", None, 1089), ("cogview-super-resolution", (16, 16), 1345)],
)
def test_cogviews_finetuning_fits_its_model(name: str, context: tuple[int, int] | None, length: int) -> None:
    """The released lengths, 1,089 and 1,345, in 1,089 positions of 3,928,849,920 parameters."""
    found = read_recipe(RECIPES / f"{name}.yaml")
    assert isinstance(found, TransformerRecipe) and found.model is not None
    given = found.format.model_dump(exclude={"window"})
    form = SequenceFormat(vocabulary=Vocabulary.cogview(), grid=(32, 32), context_grid=context, **given)
    assert form.max_length == length and form.max_positions <= found.model.max_positions == 1089
    config = TransformerConfig.model_validate(found.model.model_dump())
    shapes = Transformer.shapes(config)
    assert sum(tensor.numel() for tensor in shapes.values()) == 3_928_849_920
    paper = Transformer.shapes(TransformerConfig.cogview_4b())
    assert {key: value.shape for key, value in shapes.items()} == {k: v.shape for k, v in paper.items()}


def test_coco_finetuning_fits_coglm() -> None:
    found = read_recipe(RECIPES / "cogview2-coco.yaml")
    assert isinstance(found, CogLMRecipe) and found.model is not None
    given = found.format.model_dump(exclude={"controls", "multiple"})
    vocabulary = Vocabulary.cogview2()
    assert vocabulary.controls == found.format.controls and vocabulary.multiple == found.format.multiple
    form = CogLMFormat(vocabulary=vocabulary, grid=(20, 20), **given)
    assert form.max_positions <= found.model.max_positions
    config = TransformerConfig.model_validate(found.model.model_dump())
    assert config == TransformerConfig.cogview2_6b()
    assert sum(tensor.numel() for tensor in Transformer.shapes(config).values()) == 5_902_307_328


@pytest.mark.parametrize("name", ["cogview-caption", "cogview-super-resolution", "cogview2-coco"])
def test_it_has_a_plan(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(RECIPES / f"{name}.yaml"), "--gpus", "16"]) == 0
    assert "whole run" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ run small

SMALL = ("model=null", "steps=3", "batch_size=4", "accumulation=1", "precision=fp32", "validation.items=4")


def pictures(folder: Path, side: int, captions: tuple[str, ...]) -> Path:
    """12 two-coloured pictures with a caption."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        pixels = np.full((side, side, 3), 255, np.uint8)
        pixels[side // 4 : side // 2, side // 4 :] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(captions[number % len(captions)], "utf-8")
    return folder


@pytest.fixture(scope="module")
def cogview(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of CogView: 8 x 8 codes of 64 from 64 px."""
    place = tmp_path_factory.mktemp("cogview")
    (place / "release").mkdir()
    release = release1.write_release(place / "release")
    assert main(release1.options(release, place / "family")) == 0
    return place / "family"


def build(data: Path, family: Path, out: Path, *more: str) -> Path:
    words = ["data", "build", str(data), str(out), "--tokenizers", str(family), "--workers", "0", *more]
    assert main([*words, "--validation", "0.3"]) == 0
    return out


def assembled(family: Path, run: Path, out: Path, role: str) -> ModelBundle:
    given = ["--base", str(run)] if role == "base" else ["--role", f"{role}={run}"]
    assert main(["assemble", str(out), "--from", str(family), *given]) == 0
    return ModelBundle(out)


def finite(lines: list[dict[str, Any]]) -> bool:
    return len(lines) == 3 and all(np.isfinite(line["loss"]) for line in lines)


def test_captions_from_an_imported_cogview(cogview: Path, tmp_path: Path) -> None:
    data = pictures(tmp_path / "pictures", 64, ("a red circle", "一只猫"))
    tokens = build(data, cogview, tmp_path / "tokens")
    lines = fit(
        "cogview-caption.yaml", tmp_path / "run", f"data={tokens}", f"init={cogview}", *SMALL,
        "format.text_slots=12",
    )  # fmt: skip
    assert finite(lines)
    family = assembled(cogview, tmp_path / "run", tmp_path / "two", "caption")
    assert family.config.roles["caption"].sequences.kind == "image_to_text"


def test_super_resolution_from_an_imported_cogview(cogview: Path, tmp_path: Path) -> None:
    """4 x 4 codes to 8 x 8, of squares cut out of larger pictures."""
    data = pictures(tmp_path / "pictures", 90, ("a blue square", "山上的树"))
    asked = ("--super-resolution", "--size", "64", "--crop", "random")
    tokens = build(data, cogview, tmp_path / "tokens", *asked)
    lines = fit(
        "cogview-super-resolution.yaml", tmp_path / "run", f"data={tokens}", f"init={cogview}", *SMALL,
        "format.text_slots=12", "format.window=[8, 8]",
    )  # fmt: skip
    assert finite(lines)
    family = assembled(cogview, tmp_path / "run", tmp_path / "two", "super_resolution")
    form = family.config.roles["super_resolution"].sequences
    assert (form.kind, form.grid, form.context_grid) == ("super_resolution", (8, 8), (4, 4))


def test_coco_from_an_imported_cogview2(tmp_path: Path) -> None:
    """CogView2*: the family has 2 x 2 codes; the released numbers of its sequences give way to these."""
    (tmp_path / "release").mkdir()
    family = tmp_path / "family"
    assert main(release2.options(release2.write_release(tmp_path / "release"), family)) == 0
    form = ModelBundle(family).config.roles["base"].sequences
    assert isinstance(form, CogLMFormat)
    data = pictures(tmp_path / "pictures", 64, ("a cat", "a dog"))
    tokens = build(data, family, tmp_path / "tokens")
    lines = fit(
        "cogview2-coco.yaml", tmp_path / "run", f"data={tokens}", f"init={family}", *SMALL,
        f"format.text_slots={form.text_slots}", f"format.image_start={form.image_start}",
        f"format.multiple={form.vocabulary.multiple}",
    )  # fmt: skip
    assert finite(lines)
    again = assembled(family, tmp_path / "run", tmp_path / "coco", "base")
    assert again.config.roles["base"].sequences.kind == "coglm"


def test_the_image_tokenizer_trains(tmp_path: Path) -> None:
    """From Xavier's codebook on, quantised from the first step, and nothing restarted."""
    source = open_source(pictures(tmp_path / "pictures", 32, ("a square",)), validation=0.3)
    build_image_cache(source, tmp_path / "cache", Preprocessing(size=32))
    lines = fit(
        "cogview-image-tokenizer.yaml", tmp_path / "run", f"data={tmp_path / 'cache'}", "steps=3",
        "batch_size=4", "accumulation=1", "precision=fp32", "model.image_size=32", "model.channels=[8, 8, 8]",
        "model.codes=32", "model.code_dim=8", "validation_images=4",
    )  # fmt: skip
    assert finite(lines) and all(line["perplexity"] >= 1 for line in lines)
    assert ImageTokenizer.from_directory(tmp_path / "run" / "model").grid(32) == (4, 4)
