"""Training the tokenizer of several scales at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cogview.data.image_cache import ImageCache, build_image_cache
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.errors import CogViewError
from cogview.tokenizers.hvqvae import HierarchicalConfig, HierarchicalTokenizer
from cogview.tokenizers.perceptual import LPIPS
from cogview.training.launch import prepare_directory
from cogview.training.registry import read_recipe, task_class
from cogview.training.trainer import Trainer

RECIPE = Path(__file__).parents[2] / "recipes" / "cogview2-tokenizer.yaml"
TINY = {
    "model": "{image_size: 16, rate: 8, channels: 8, groups: 4, multipliers: [1, 1, 1], blocks: 1, "
    "decoders: [[1, 1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1]], features: 8, codes: 24, code_dim: 4}",
    "steps": 5,
    "batch_size": 4,
    "accumulation": 1,
    "warmup_steps": 2,
    "restart_every": 3,
    "validation_images": 4,
    "optimizer.lr": 3e-3,
    "intervals": "{log: 1, evaluate: 5, sample: 5, checkpoint: 5}",
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 24 one-colour squares on white."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(24):
        pixels = np.full((16, 16, 3), 255, np.uint8)
        pixels[4:12, 4:12] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    cache = tmp_path_factory.mktemp("cache")
    build_image_cache(open_source(folder, validation=0.2), cache, Preprocessing(size=16))
    return cache


def fit(directory: Path, pictures: Path, *overrides: str) -> list[dict[str, float]]:
    """A run of the shipped recipe, shrunk, without a network to judge unless ``overrides`` give one."""
    settings = [f"{key}={value}" for key, value in TINY.items()]
    given = read_recipe(RECIPE, [*settings, f"data={pictures}", "loss.perceptual=[]", *overrides])
    prepare_directory(given, directory, resume=False)
    Trainer(task_class(given.task)(given), given, directory).fit(False)
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_all_scales_learn_and_the_export_is_what_was_evaluated(tmp_path: Path, pictures: Path) -> None:
    lines = fit(tmp_path / "run", pictures, "steps=16", "intervals.evaluate=16", "intervals.sample=16")
    train = [line for line in lines if line["kind"] == "train"]
    for rate in (4, 8, 16):
        assert train[-1][f"l2_{rate}"] < 0.8 * train[0][f"l2_{rate}"]
    assert train[-1]["live"] > 1
    said = [line for line in lines if line["kind"] == "evaluate"][-1]
    model = HierarchicalTokenizer.from_directory(tmp_path / "run" / "model")
    cache = ImageCache(pictures)
    images = cache.images(cache.select(["val"])[:4]).float() / 255
    for rate in (4, 8, 16):
        painted = model.decode(model.encode(images, rate), rate=rate).clamp(0, 1)
        error = (painted - images).pow(2).mean((1, 2, 3))
        assert said[f"psnr_{rate}"] == pytest.approx((-10 * error.log10()).mean().item(), abs=0.1)
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_the_perceptual_term_is_part_of_every_scale(tmp_path: Path, pictures: Path) -> None:
    torch.manual_seed(0)
    save_file(LPIPS("alexnet").state_dict(), tmp_path / "lpips.safetensors")
    term = f"[{{weights: {tmp_path / 'lpips.safetensors'}, network: alexnet, weight: 0.5}}]"
    sizes = TINY["model"].replace("image_size: 16", "image_size: 64")  # type: ignore[attr-defined]
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 0, 0)).save(folder / f"{i}.png")
    build_image_cache(open_source(folder, validation=0.0), tmp_path / "cache", Preprocessing(size=64))
    lines = fit(
        tmp_path / "run",
        tmp_path / "cache",
        *(f"loss.perceptual={term}", "steps=3", "batch_size=2", "warmup_steps=1", f"model={sizes}"),
    )
    train = [line for line in lines if line["kind"] == "train"]
    assert all(train[0][f"lpips_alexnet_{rate}"] > 0 for rate in (4, 8, 16))


def test_decoders_alone_leave_the_codes_as_they_are(tmp_path: Path, pictures: Path) -> None:
    fit(tmp_path / "a", pictures)
    start = tmp_path / "a" / "model"
    fit(tmp_path / "b", pictures, f"init={start}", "frozen=[encoder, quantizer]")
    before, after = (HierarchicalTokenizer.from_directory(path) for path in (start, tmp_path / "b" / "model"))
    assert before.fingerprint == after.fingerprint
    for old, new in zip(before.decoders, after.decoders, strict=True):
        assert not torch.equal(old.conv_out.weight, new.conv_out.weight)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.adversarial=0.5", "without one"),
        ("model.image_size=24", "coarsest scale"),
        ("model.kodes=8", "kodes"),
        ("model.groups=3", "groups 3"),
        ("init=nowhere", "nowhere"),
    ],
)
def test_what_cannot_work_is_said_before_anything_loads(
    tmp_path: Path, pictures: Path, override: str, message: str
) -> None:
    with pytest.raises(CogViewError, match=message):
        fit(tmp_path / "run", pictures, override)


def test_the_recipe_is_the_released_size() -> None:
    recipe = read_recipe(RECIPE)
    assert recipe.model_dump()["model"] == HierarchicalConfig().model_dump()
