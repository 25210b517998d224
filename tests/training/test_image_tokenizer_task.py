"""Stage one at a tiny size: every codebook method, the adversarial phase, frozen codes, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.errors import CogViewError
from cogview.tokenizers.quantizers import METHODS
from cogview.tokenizers.vqvae import ImageTokenizer
from cogview.training.launch import prepare_directory
from cogview.training.registry import read_recipe, task_class
from cogview.training.tasks.image_tokenizer import crop_at
from cogview.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
RECIPE = """
task: image_tokenizer
name: tiny
steps: 12
batch_size: 8
warmup_steps: 3
restart_every: 4
validation_images: 8
model: {image_size: 12, factors: [3, 2], channels: [8, 16], blocks: [0, 0], codes: 16, code_dim: 4}
optimizer: {kind: adamw, lr: 3.0e-3}
intervals: {log: 1, evaluate: 6, sample: 6, checkpoint: 6}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 48 one-colour squares on white."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for i in range(48):
        pixels = np.full((12, 12, 3), 255, np.uint8)
        pixels[3:9, 3:9] = rng.integers(0, 255, 3)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a square")
    cache = tmp_path_factory.mktemp("cache")
    build_image_cache(open_source(folder, validation=0.2), cache, Preprocessing(size=12))
    return cache


def fit(directory: Path, pictures: Path, *overrides: str, resume: bool = False) -> list[dict[str, float]]:
    directory.parent.mkdir(parents=True, exist_ok=True)
    recipe = directory.parent / "recipe.yaml"
    recipe.write_text(RECIPE)
    given = read_recipe(recipe, [f"data={pictures}", *overrides])
    prepare_directory(given, directory, resume)
    Trainer(task_class(given.task)(given), given, directory).fit(resume)
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_trains_and_exports(method: str, tmp_path: Path, pictures: Path) -> None:
    lines = fit(tmp_path / "run", pictures, f"model.method={method}", "steps=40")
    train = [line for line in lines if line["kind"] == "train"]
    assert train[-1]["l2"] < 0.5 * train[0]["l2"]
    assert 1 <= train[-1]["perplexity"] <= 16 and train[-1]["live"] > 1
    model = ImageTokenizer.from_directory(tmp_path / "run" / "model")
    assert model.encode(torch.rand(1, 3, 12, 12)).shape == (1, 4)
    assert list((tmp_path / "run" / "samples").glob("*.png"))


def test_the_evaluation_is_what_the_exported_tokenizer_does(tmp_path: Path, pictures: Path) -> None:
    from cogview.data.image_cache import ImageCache

    lines = fit(tmp_path / "run", pictures)
    said = [line for line in lines if line["kind"] == "evaluate"][-1]
    cache = ImageCache(pictures)
    images = cache.images(cache.select(["val"])[:8]).float() / 255
    model = ImageTokenizer.from_directory(tmp_path / "run" / "model")
    error = ((model.decode(model.encode(images)).clamp(0, 1) - images) ** 2).mean((1, 2, 3))
    assert said["psnr"] == pytest.approx((-10 * error.log10()).mean().item(), abs=0.05)


def test_the_discriminator_starts_late_and_learns(tmp_path: Path, pictures: Path) -> None:
    lines = fit(tmp_path / "run", pictures, "loss.adversarial=0.5", "loss.adversarial_start=0.5")
    seen = {line["step"]: line for line in lines if line["kind"] == "train"}
    assert all("adversarial" not in seen[step] for step in range(1, 6))
    assert all(np.isfinite(seen[step]["adversarial"]) for step in range(8, 13))
    assert any("discriminator" in key for key in seen[12])


def test_frozen_codes_stay_while_the_decoder_learns(tmp_path: Path, pictures: Path) -> None:
    fit(tmp_path / "a" / "run", pictures)
    start = tmp_path / "a" / "run" / "model"
    lines = fit(tmp_path / "b" / "run", pictures, f"init={start}", "frozen=[encoder, quantizer]", "steps=30")
    before, after = (
        ImageTokenizer.from_directory(path) for path in (start, tmp_path / "b" / "run" / "model")
    )
    assert before.fingerprint == after.fingerprint
    assert not torch.equal(
        next(before.decoder.parameters()).detach(), next(after.decoder.parameters()).detach()
    )
    train = [line["l2"] for line in lines if line["kind"] == "train"]
    assert np.mean(train[-5:]) < np.mean(train[:5])


def test_a_frozen_code_gets_a_wider_decoder_that_starts_untrained(tmp_path: Path, pictures: Path) -> None:
    """The codes stay; the decoder has other settings, so only it is new, and it learns."""
    fit(tmp_path / "a" / "run", pictures)
    start = tmp_path / "a" / "run" / "model"
    wider = "model.decoder_channels=[16, 24]"
    lines = fit(
        tmp_path / "b" / "run", pictures, f"init={start}", "frozen=[encoder, quantizer]", wider, "steps=40"
    )
    before, after = (ImageTokenizer.from_directory(d) for d in (start, tmp_path / "b" / "run" / "model"))
    assert before.fingerprint == after.fingerprint
    train = [line["l2"] for line in lines if line["kind"] == "train"]
    assert np.mean(train[-5:]) < 0.5 * np.mean(train[:2])


def test_another_codebook_may_start_from_a_trained_encoder(tmp_path: Path, pictures: Path) -> None:
    fit(tmp_path / "a" / "run", pictures)
    start = tmp_path / "a" / "run" / "model"
    changes = ("model.method=finite_scalar", "model.codes=64", "model.code_dim=2")
    fit(tmp_path / "b" / "run", pictures, f"init={start}", *changes, "warmup_steps=0", "steps=1")
    before, after = (ImageTokenizer.from_directory(d) for d in (start, tmp_path / "b" / "run" / "model"))
    kept = before.encoder[1].weight - after.encoder[1].weight  # one step from where the first run ended
    assert 0 < kept.abs().max() < 0.01
    assert after.codes == 64


@pytest.mark.parametrize("method", ["moving_average", "nearest"])
def test_a_codebook_that_was_started_from_stays_what_it_was(
    tmp_path: Path, pictures: Path, method: str
) -> None:
    """One step at a tiny rate: the codebook has hardly moved, and not to where it was initialised."""
    fit(tmp_path / "a" / "run", pictures, f"model.method={method}")
    start = tmp_path / "a" / "run" / "model"
    changes = (f"model.method={method}", "warmup_steps=0", "steps=1", "optimizer.lr=1e-6", "restart_every=0")
    fit(tmp_path / "b" / "run", pictures, f"init={start}", *changes)
    before, after = (
        ImageTokenizer.from_directory(d).quantizer.codebook.detach()
        for d in (start, tmp_path / "b" / "run" / "model")
    )
    used = before.norm(dim=1) > 0
    assert ((before - after).norm(dim=1) / before.norm(dim=1))[used].median() < 0.02


def test_an_encoder_of_another_shape_is_refused(tmp_path: Path, pictures: Path) -> None:
    fit(tmp_path / "a" / "run", pictures)
    start = tmp_path / "a" / "run" / "model"
    with pytest.raises(CogViewError, match=r"does not fit the recipe's model: encoder"):
        fit(tmp_path / "b" / "run", pictures, f"init={start}", "model.channels=[16, 16]")


def test_a_perceptual_crop_is_a_square_of_the_image() -> None:
    seen = {tuple(part.start for part in crop_at((12, 20), 8, seed)[2:]) for seed in range(2000)}
    assert seen == {(top, left) for top in range(5) for left in range(13)}
    images = torch.rand(2, 3, 12, 20)
    assert images[crop_at((12, 20), 8, 1)].shape == (2, 3, 8, 8)
    assert torch.equal(images[crop_at((12, 20), None, 1)], images)
    assert images[crop_at((12, 20), 16, 1)].shape == (2, 3, 12, 16)


def test_a_resumed_run_is_the_same_run(tmp_path: Path, pictures: Path) -> None:
    """Start and restarts of the codebook included: resumed at step 6, losses are equal bit for bit."""
    whole = fit(tmp_path / "a" / "run", pictures)
    fit(tmp_path / "b" / "run", pictures)
    newest = sorted((tmp_path / "b" / "run" / "checkpoints").glob("step-*"))[-1]
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    again = fit(tmp_path / "b" / "run", pictures, resume=True)
    keep = ("step", "l2", "psnr", "live")
    losses = [
        [{k: line.get(k) for k in keep} for line in run if line["kind"] == "train"] for run in (whole, again)
    ]
    assert losses[0] == losses[1]


def test_without_held_out_pictures_a_run_still_ends_with_a_model(tmp_path: Path) -> None:
    """A folder whose keys all fall into "train": nothing to evaluate, but sheets and a model."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(9):
        Image.new("RGB", (12, 12), (28 * i, 255 - 28 * i, 60)).save(folder / f"{i}.png")
    build_image_cache(open_source(folder, validation=0), tmp_path / "cache", Preprocessing(size=12))
    lines = fit(tmp_path / "run", tmp_path / "cache")
    assert not [line for line in lines if line["kind"] == "evaluate"]
    assert ImageTokenizer.from_directory(tmp_path / "run" / "model").codes == 16
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frozen=[encoder]", "frozen together"),
        ("warmup_steps=12", "leaves none"),
        ("model.image_size=13", "is not a multiple of 6"),
        ("model.kodes=8", "kodes"),
    ],
)
def test_what_cannot_work_is_said_before_anything_loads(
    tmp_path: Path, pictures: Path, override: str, message: str
) -> None:
    with pytest.raises(CogViewError, match=message):
        fit(tmp_path / "run", pictures, override)
