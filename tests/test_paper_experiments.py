"""The papers' experiments, rehearsed: what they report is what the runs were, and known in closed form."""

from __future__ import annotations

import importlib
import json
import math
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parents[1] / "benchmarks" / "papers"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, with the scripts' folder in reach as when they are run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def rehearse(name: str, *words: str) -> dict:
    """A rehearsal's result, as it stands in its file, beside its plot."""
    experiment, module = script("experiment"), script(name)
    experiment.main(module.EXPERIMENT, ["--rehearse", "--seeds", "1", *words])
    folder = Path("runs/rehearsals") / name
    assert (folder / f"paper_{name}.png").stat().st_size > 5_000
    found = json.loads((folder / f"paper_{name}.json").read_text())
    assert found["rehearsal"] and found["command"].startswith(f"python benchmarks/papers/{name}.py")
    return found


def test_the_world_is_read_back_whatever_its_textures() -> None:
    world = script("world")
    known = world.combinations()
    assert len(known) == 8 * 7 * 4 * 4
    chance = np.random.default_rng(1)
    for side in (8, 16):
        pictures = np.stack([world.picture(own, side, chance) for own in known[::37]])
        assert world.read(pictures, side) == known[::37]
    noise = chance.integers(0, 32, (400, 64))
    asked = [known[i] for i in chance.integers(0, len(known), 400)]
    by_chance = (1 / 8 + 1 / 4 + 1 / 8 + 1 / 4) / 4
    assert world.agreement(asked, world.read(noise, 8)) == pytest.approx(by_chance, abs=0.03)
    assert world.agreement(asked, asked) == 1


def test_the_world_holds_combinations_back_but_no_single_value(tmp_path: Path) -> None:
    from cogview.data.shards import TokenShards

    world = script("world")
    small = world.World(items=512)
    shards = TokenShards(world.write_world(tmp_path / "data", small))
    shown = {split: set(world.read(shards.codes(shards.select((split,))), 8)) for split in ("train", "val")}
    assert shown["train"] and shown["val"] and not shown["train"] & shown["val"]
    assert all(map(world.held_out, shown["val"]))
    for place in range(4):
        assert {own[place] for own in shown["val"]} <= {own[place] for own in shown["train"]}
    captions = {world.caption(own, tongue) for own in world.combinations() for tongue in world.ORDERS}
    assert len(captions) == 2 * len(world.combinations()) and max(map(max, captions)) < 2 * world.WORDS
    assert small.best == pytest.approx(math.log(4))
    assert small.blind == pytest.approx(-math.log(1 / 4 * (1 / 896) ** (1 / 64)))


def test_both_norms_start_at_guessing_and_learn_alike() -> None:
    found = rehearse("sandwich")
    assert list(found["arms"]) == ["pre-LN", "Sandwich-LN", "gain 0.25"]
    runs = [facts["runs"][0] for facts in found["arms"].values()]
    assert runs[0]["weights_sha256"] != runs[1]["weights_sha256"] and runs[0]["steps"] == 12
    rows = found["recipe"]["model"]["vocab_size"] or 256  # of the padded vocabulary
    for run in runs:
        assert run["figures"]["loss"] < math.log(rows) and run["processor_seconds"] > 0
    before = Path("runs/rehearsals/sandwich/pre-LN-1/result.json").stat().st_mtime_ns
    again = rehearse("sandwich")  # nothing is trained a second time
    assert Path("runs/rehearsals/sandwich/pre-LN-1/result.json").stat().st_mtime_ns == before
    assert again["arms"] == found["arms"]


def test_every_batch_size_sees_the_same_sequences_at_a_rate_of_its_own() -> None:
    found = rehearse("tokens_seen")
    assert [own["runs"][0]["steps"] for own in found["arms"].values()] == [24, 12, 6, 3]
    for own, batch in zip(found["arms"].values(), (8, 16, 32, 64), strict=True):
        settings = dict(word.split("=") for word in own["overrides"])
        assert int(settings["batch_size"]) == batch
        assert float(settings["optimizer.lr"]) / batch == pytest.approx(1e-3 / 32)
        assert int(settings["steps"]) * batch == 3840


def test_the_loss_scale_doubles_after_ten_good_updates() -> None:
    found = rehearse("embedding_gradient", "--set", "loss_scaler.scale=1")
    for own in found["arms"].values():
        scales = dict(own["runs"][0]["figures"]["scales"])
        # logged every 5 steps as the mean over them; the scale starts at 1 and no gradient overflows so low
        assert scales[5] == 0 and scales[20] == pytest.approx(math.log2((4 * 2 + 4) / 5), abs=1e-6)
        assert scales[40] > scales[20]


def test_a_text_without_weight_is_not_learnt_and_pictures_are_read_from_drawn_codes() -> None:
    found = rehearse("text_weight")
    figures = {arm: own["figures"] for arm, own in found["arms"].items()}
    losses = [figures[arm]["text_loss"]["value"] for arm in ("0.2", "1", "5")]
    assert losses == sorted(losses, reverse=True) and "text_loss" not in figures["0"]
    for own in found["arms"].values():
        assert 0 <= own["figures"]["agreement"]["value"] <= 0.5  # next to nothing was learnt


def test_a_run_that_overflows_ends_and_is_told_apart() -> None:
    words = ["--set", "optimizer.lr=300", "--set", "steps=60", "--set", "schedule.kind=constant"]
    found = rehearse("o2_overflow", *words)
    chain = script("o2_overflow").chain
    after = dict(pairwise(chain(0, 0).tolist()))
    again = chain(list(after)[3], 0).tolist()
    assert all(after[one] == two for one, two in pairwise(again) if one in after)
    without = found["arms"]["without"]["runs"][0]
    assert without["ended"] is not None and 10 <= without["ended"] < 60
    assert "not finite" in without["why"]
    assert found["recipe"]["precision"] == "fp16-o2"


def test_only_the_fixed_codebook_stays_as_it_was_drawn() -> None:
    found = rehearse("figure2")
    assert list(found["arms"]) == ["nearest", "gumbel", "moving average", "fixed"]
    bound = torch.nn.init.calculate_gain("tanh") * math.sqrt(6 / (32 + 8))  # Xavier's, of 32 codes of 8
    inside = {}
    for arm in found["arms"]:
        folder = Path("runs/rehearsals/figure2") / f"{arm.replace(' ', '-')}-1" / "model"
        [file] = folder.glob("*.safetensors")
        [book] = [x for name, x in load_file(file).items() if name.endswith("codebook")]
        inside[arm] = float(book.float().abs().max()) <= bound * 1.001
    assert inside["fixed"]
    curve = found["arms"]["fixed"]["runs"][0]["curve"]
    assert curve and all(value > 0 for _, value in curve)


def test_sparse_and_dense_run_apart_and_tell_their_memory() -> None:
    found = rehearse("sparse")
    figures = {arm: own["figures"] for arm, own in found["arms"].items()}
    assert set(figures) == {"dense", "three-region"}
    assert all(
        own["memory"]["value"] > 1e8 and own["seconds_a_step"]["value"] > 0 for own in figures.values()
    )
