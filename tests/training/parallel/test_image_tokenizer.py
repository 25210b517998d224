"""Image tokenizers follow the same curve on one rank and on two, whatever trains their codebook."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cogview.config import validate
from cogview.data.image_cache import build_image_cache
from cogview.data.shards import Preprocessing
from cogview.data.sources import open_source
from cogview.tokenizers.perceptual import LPIPS
from cogview.training.recipe import Recipe
from cogview.training.registry import task_class
from tests.training.parallel.conftest import once
from tests.training.parallel.world import run, train

TOLERANCE = 1e-4
STEPS, SAVED = 12, 6
RESIDUAL = {
    "image_size": 36,
    "factors": [3, 2],
    "channels": [8, 16],
    "blocks": [0, 1],
    "codes": 64,
    "code_dim": 4,
}
SCALES = {
    "image_size": 36, "rate": 2, "channels": 8, "groups": 4, "multipliers": [1, 1], "blocks": 1,
    "decoders": [[1, 1, 1], [1, 1]], "attention": [[], []], "features": 8, "codes": 512, "code_dim": 4,
}  # fmt: skip
# What is trained, by name; "adversarial" has a discriminator and a judge of a tenth of each batch.
SETTINGS: dict[str, dict[str, Any]] = {
    "nearest": {"method": "nearest"},
    "gumbel": {"method": "gumbel", "accumulation": 2},
    "moving_average": {"method": "moving_average", "ema": 0.9},
    "fixed": {"method": "fixed"},
    "adversarial": {"method": "gumbel", "loss": {"adversarial": 0.5, "adversarial_start": 0.4}},
    "scales": {"task": "hierarchical_tokenizer", "model": SCALES, "steps": 7},
}


def asked(base: Path, name: str) -> Recipe:
    """15 pictures in batches of 7: the last one of an epoch leaves one of two ranks without."""
    fields = dict(SETTINGS[name])
    task = fields.setdefault("task", "image_tokenizer")
    if method := fields.pop("method", None):
        fields["model"] = {**RESIDUAL, "method": method}
    if name == "adversarial":
        judge = {"weights": str(base / "alexnet.safetensors"), "network": "alexnet", "share": 0.1}
        fields["loss"] = {**fields["loss"], "perceptual": [judge]}
    whole = {
        "name": "tiny", "data": str(base / "cache"), "steps": STEPS, "batch_size": 7, "warmup_steps": 3,
        "restart_every": 3, "restart_below": 0.99, "optimizer": {"lr": 0.003}, "device": "cpu", "threads": 1,
        "intervals": {"log": 1, "evaluate": 0, "sample": 0, "checkpoint": SAVED}, "parallel": {"kind": "ddp"},
        **fields,
    }  # fmt: skip
    return validate(task_class(task).recipe_class, whole, "test")


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture cache, a judge, and all settings on one rank and on two."""

    def make(base: Path) -> None:
        folder, rng = base / "pictures", np.random.default_rng(0)
        folder.mkdir()
        for i in range(15):
            pixels = np.full((36, 36, 3), 255, np.uint8)
            pixels[9:27, 3 + i : 20 + i] = rng.integers(0, 255, 3)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        build_image_cache(open_source(folder, validation=0), base / "cache", Preprocessing(size=36))
        torch.manual_seed(5)
        save_file(LPIPS("alexnet").state_dict(), base / "alexnet.safetensors")
        for world in (1, 2):
            (base / str(world)).mkdir()
        for name in SETTINGS:
            train(asked(base, name), base / "1" / name)
        assert run(2, *((asked(base, name), base / "2" / name) for name in SETTINGS)) == ["", ""]

    return once(tmp_path_factory, "image-tokenizers", make)


def lines(directory: Path) -> list[dict[str, Any]]:
    text = (directory / "metrics.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if line["kind"] == "train"]


def agree(found: Path, expected: Path) -> None:
    """Losses and what makes them up, codes in use, pictures seen: step by step."""
    one, many = lines(expected), lines(found)
    assert [line["step"] for line in many] == [line["step"] for line in one]
    for mine, theirs in zip(one, many, strict=True):
        compared = {
            key for key in mine if key.endswith("loss") or key.startswith(("l2", "lpips", "adversarial"))
        }
        for key in compared:
            assert theirs[key] == pytest.approx(mine[key], abs=TOLERANCE, rel=TOLERANCE), (mine["step"], key)
        assert theirs["items"] == mine["items"]
        if "perplexity" in mine:
            # of hundreds of codes, many alike, rounding may turn one
            assert abs(theirs["live"] - mine["live"]) <= mine["live"] // 200
            assert theirs["perplexity"] == pytest.approx(mine["perplexity"], rel=1e-3)


@pytest.mark.parametrize("name", SETTINGS)
def test_two_ranks_follow_the_curve_of_one(name: str, runs: Path) -> None:
    agree(runs / "2" / name, runs / "1" / name)
    said, codes = lines(runs / "1" / name), asked(runs, name).model_dump()["model"]["codes"]
    assert said[-1]["loss"] < said[0]["loss"]
    assert min(line["live"] for line in said[3:]) < codes, "no code was ever out of use"
    one, two = (load_file(runs / world / name / "model" / "model.safetensors") for world in "12")
    for key, value in one.items():
        assert (two[key].float() - value.float()).abs().mean() < 1e-3, key


def test_the_discriminator_and_the_judge_were_at_work(runs: Path) -> None:
    last = lines(runs / "2" / "adversarial")[-1]
    assert last["discriminator_loss"] > 0 and last["lpips_alexnet"] > 0 and "adversarial" in last


@pytest.mark.parametrize(("name", "before", "world"), [("moving_average", "2", 1), ("adversarial", "1", 2)])
def test_a_checkpoint_goes_on_on_another_number_of_ranks(
    name: str, before: str, world: int, runs: Path, tmp_path: Path
) -> None:
    """Codebook, its statistics, what is restarted and drawn, discriminator: the uninterrupted curve."""
    shutil.copytree(runs / before / name, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}")
    if world == 1:
        train(asked(runs, name), tmp_path / "run")
    else:
        assert run(world, (asked(runs, name), tmp_path / "run")) == [""] * world
    assert f"resuming at step {SAVED}" in (tmp_path / "said-0.txt").read_text()
    agree(tmp_path / "run", runs / "1" / name)
