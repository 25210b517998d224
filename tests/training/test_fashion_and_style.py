"""Sections 3.3 and 3.4 as recipes: their sizes on paper, and the small ones run."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cogview.checkpoints.bundle import ModelBundle
from cogview.data.build import BuildSettings, build
from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing, TokenShards
from cogview.data.sources import open_source
from cogview.sequences import SequenceFormat
from cogview.tokenizers.perceptual import LPIPS
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.training.launch import prepare_directory
from cogview.training.metrics_file import MetricsFile
from cogview.training.registry import read_recipe, task_class
from cogview.training.tasks.image_tokenizer import ImageTokenizerRecipe
from cogview.training.tasks.transformer_recipe import TransformerRecipe
from cogview.training.trainer import Trainer
from cogview.transformer.attention.three_region import check_fits
from cogview.transformer.config import ThreeRegionConfig, TransformerConfig
from cogview.transformer.model import Transformer
from cogview.vocabulary import Vocabulary
from tests.generation import tiny

ROOT = Path(__file__).parents[2]
FASHION = ROOT / "recipes" / "fashion"


@pytest.mark.parametrize(
    ("tokenizer", "transformer", "size", "side", "weights"),
    [
        ("image_tokenizer", "base", 800, 50, (2.8e9, 3.2e9)),
        ("small_image_tokenizer", "small", 72, 24, (6e6, 2.4e7)),
    ],
)
def test_the_fashion_configuration_on_meta(
    tokenizer: str, transformer: str, size: int, side: int, weights: tuple[float, float]
) -> None:
    """50 x 50 codes, 800 x 800 pixels, 3B parameters (section 3.4), checked without their memory."""
    first, second = (read_recipe(FASHION / f"{name}.yaml") for name in (tokenizer, transformer))
    assert isinstance(first, ImageTokenizerRecipe) and isinstance(second, TransformerRecipe)
    assert first.loss.perceptual and first.loss.adversarial > 0 and second.model is not None
    with torch.device("meta"):
        images = ImageTokenizer(first.model)
        vectors = images.features(torch.empty(1, 3, size, size))
        assert vectors.shape == (1, side, side, first.model.code_dim)
        assert images.decode_vectors(vectors).shape == (1, 3, size, size)
    vocabulary = Vocabulary(image_codes=first.model.codes, text_pieces=50_000)
    form = SequenceFormat(
        vocabulary=vocabulary, grid=first.model.grid, **second.format.model_dump(exclude={"window"})
    )
    sizes = {"vocab_size": vocabulary.padded_size, "max_positions": form.max_positions}
    config = TransformerConfig.model_validate({**second.model.model_dump(), **sizes})
    count = sum(tensor.numel() for tensor in Transformer.shapes(config).values())
    assert weights[0] < count < weights[1], f"{count:,}"
    assert isinstance(second.attention, ThreeRegionConfig)
    check_fits(second.attention, form.max_length - 1, form.text_slots + 3, form.codes)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 two-coloured pictures with captions."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(24):
        pixels = np.full((24, 24, 3), 255, np.uint8)
        pixels[6:18, 6:18] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a square\n一个方块\n", "utf-8")
    return folder


def fit(recipe: str, directory: Path, *overrides: str) -> list[dict[str, float]]:
    given = read_recipe(ROOT / "recipes" / recipe, [*overrides, "threads=1", "device=cpu", "intervals.log=1"])
    prepare_directory(given, directory, False)
    Trainer(task_class(given.task)(given), given, directory).fit()
    return [line for line in MetricsFile(directory / "metrics.jsonl").lines() if line["kind"] == "train"]


def test_the_small_fashion_recipes_run(pictures: Path, tmp_path: Path) -> None:
    """A VQGAN with LPIPS and a discriminator, then a transformer that sees in three regions."""
    torch.manual_seed(0)
    judge = LPIPS("alexnet")
    save_file(judge.state_dict(), tmp_path / "lpips.safetensors", {"network": "alexnet"})
    source = open_source(pictures, validation=0.2)
    build_image_cache(source, tmp_path / "cache", Preprocessing(size=48))
    lines = fit(
        "fashion/small_image_tokenizer.yaml",
        tmp_path / "tokenizer",
        *(f"data={tmp_path / 'cache'}", "steps=6", "warmup_steps=1", "batch_size=4", "model.image_size=48"),
        *("model.channels=[8]", "model.blocks=[0]", "model.codes=32", "model.attention=false"),
        f"loss.perceptual.0.weights={tmp_path / 'lpips.safetensors'}",
    )
    assert all("lpips_alexnet" in line for line in lines)
    assert "adversarial" not in lines[1] and "adversarial" in lines[-1] and "discriminator" in lines[-1]
    images = ImageTokenizer.from_directory(tmp_path / "tokenizer" / "model")
    build(
        source,
        tmp_path / "tokens",
        images,
        tiny.text_tokenizer(),
        BuildSettings(preprocessing=Preprocessing(size=48)),
    )
    assert TokenShards(tmp_path / "tokens").index.grid == (16, 16)
    sizes = ["model.layers=2", "model.hidden=32", "model.heads=2", "format.text_slots=12", "steps=4"]
    regions = ["attention.window=16", "attention.times=2", "attention.pivots=48", "batch_size=4"]
    lines = fit("fashion/small.yaml", tmp_path / "base", f"data={tmp_path / 'tokens'}", *sizes, *regions)
    assert len(lines) == 4 and all(np.isfinite(line["loss"]) for line in lines)


@pytest.mark.parametrize("recipe", ["style.yaml", "style_lora.yaml"])
def test_the_style_recipes_start_from_a_family(
    recipe: str, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example's sketches, one caption in two phrasings for all, and a model that learns them."""
    monkeypatch.setattr(
        sys, "argv", ["restyle.py", "sketch", str(pictures), str(tmp_path / "sketches"), "--count", "8"]
    )
    runpy.run_path(str(ROOT / "examples" / "style" / "restyle.py"), run_name="__main__")
    assert len(list((tmp_path / "sketches").glob("*.png"))) == 8
    family = ModelBundle(tiny.write(tmp_path))
    from cogview.cli.app import main

    words = ["data", "build", str(tmp_path / "sketches"), str(tmp_path / "tokens")]
    words += ["--tokenizers", str(family.directory), "--caption", "en=An image of sketch style"]
    assert main([*words, "--caption", "zh=一幅素描风格的画", "--validation", "0"]) == 0
    overrides = [f"data={tmp_path / 'tokens'}", f"init={family.directory}", "format.text_slots=32"]
    more = ["steps=8", "batch_size=8", "optimizer.lr=0.01", "schedule.warmup=0"]
    lines = fit(recipe, tmp_path / "run", *overrides, *more)
    assert lines[-1]["loss"] < lines[0]["loss"]
    names = {path.name for path in (tmp_path / "run" / "model").iterdir()}
    assert ("lora.json" in names) == (recipe == "style_lora.yaml")
