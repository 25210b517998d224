"""``eval things`` and ``eval scenes``: figures against brute force, images read as the readers read them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cogview.data.image_cache import ImageCache
from cogview.evaluation.experiments import scenes, things
from cogview.evaluation.experiments.scenes import ScenesPlan, evaluate_scenes
from cogview.evaluation.experiments.things import ThingsPlan, evaluate_things
from cogview.evaluation.judges.thing_reader import ThingReader, ThingReaderConfig
from cogview.evaluation.metrics.scene_rules import Detection, Rules, ScenePrompt, Task, judge
from cogview.evaluation.prompts import scene_prompts, thing_names
from cogview.evaluation.sample_store import Sampling


class CocoGenerator:
    """Every image has one colour, the prompt's own."""

    name, fingerprint, precision = "painter", "0", "fp32"

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        colours = [np.random.default_rng([seed, *prompt.encode()]).integers(0, 256, 3) for prompt in prompts]
        return [Image.new("RGB", (48, 48), tuple(map(int, own))) for own in colours]


def reader(names: Sequence[str]) -> ThingReader:
    torch.manual_seed(0)
    facts = {"ceiling_first": 0.8, "ceiling_five": 0.95}
    found = ThingReader(ThingReaderConfig(things=tuple(names), size=32, facts=facts))
    torch.nn.init.normal_(found.network.classes.weight, std=0.5)
    with torch.no_grad():  # so that the norms know what they read
        for _ in range(20):
            found.train()(torch.rand(8, 3, 1, 1) * torch.ones(1, 3, 32, 32))
    return found


def test_every_thing_is_asked_before_any_is_asked_twice() -> None:
    own = thing_names()
    found = things.thing_prompts(own, "en", len(own) + 3)
    assert [thing for thing, _ in found[: len(own)]] == [one.thing for one in own]
    assert found[0][1] == own[0].en[0] and found[len(own)] == (own[0].thing, own[0].en[1])
    assert len(things.thing_prompts(own[:2], "zh", 50)) == 50


def test_shares_are_those_of_the_readers_first_and_first_five_guesses(tmp_path: Path) -> None:
    names = [one.thing for one in thing_names()[:8]]
    judge_, plan = reader(names), ThingsPlan(count=12, bootstrap=50, batch=5)
    found = evaluate_things(plan, judge_, CocoGenerator(), tmp_path)
    assert found is not None
    report, images = found
    for language, own in report.readings.items():
        _, table = judge_.read([np.asarray(Image.open(path)) for path in images[language]])
        wanted = [names.index(thing) for thing, _ in things.thing_prompts(thing_names()[:8], language, 12)]  # type: ignore[arg-type]
        ranks = [list(np.argsort(-row)).index(w) for row, w in zip(table, wanted, strict=True)]
        assert own.first.value == pytest.approx(np.mean([rank < 1 for rank in ranks]))
        assert own.five.value == pytest.approx(np.mean([rank < 5 for rank in ranks]))
        assert own.five_of_ceiling is not None
        assert own.five_of_ceiling.value == pytest.approx(own.five.value / 0.95)
        guesses = table.argmax(1)
        hits = [guesses[j] == wanted[i] for i in range(12) for j in range(12) if i != j]
        assert own.floor == pytest.approx(np.mean(hits))
    difference = report.readings["en"].first.value - report.readings["zh"].first.value
    assert report.difference is not None and report.difference.value == pytest.approx(difference)
    assert report.counts and sum(own.stated for own in report.by_thing.values()) == 24


def test_another_rank_waits_and_nothing_is_generated_twice(tmp_path: Path) -> None:
    names = [one.thing for one in thing_names()[:3]]
    plan = ThingsPlan(count=4, batch=2, bootstrap=5)
    assert evaluate_things(plan, reader(names), CocoGenerator(), tmp_path, rank=(0, 2)) is None
    assert evaluate_things(plan, reader(names), CocoGenerator(), tmp_path, rank=(1, 2)) is not None


def test_resampled_things_by_hand() -> None:
    hits, owners = np.array([1, 0, 1, 1, 0], bool), np.array([3, 3, 7, 7, 9])
    found = things.clustered(hits, owners, 400, 0)
    assert found[0] == pytest.approx(0.6)
    drawn = [(a, b, 3 - a - b) for a in range(4) for b in range(4 - a)]
    possible = [(a + 2 * b) / (2 * a + 2 * b + c) for a, b, c in drawn]
    assert all(min(abs(value - own) for own in possible) < 1e-9 for value in found[1:])


def test_copies_are_nearer_than_styles(squares: Path, tmp_path: Path) -> None:
    """Images that are training drawings are nearer than any two drawings; distances by brute force."""
    chance = np.random.default_rng(0)
    rows = things.normalized(chance.standard_normal((6, 5)).astype(np.float32))
    names = ["a", "a", "b", "b", "b", "c"]
    expected = sorted(1 - rows[i] @ rows[j] for i in range(6) for j in range(i) if names[i] == names[j])
    assert sorted(things.style_distances(rows, names)) == pytest.approx(expected, abs=1e-6)
    assert things.nearest_distances(rows[:2], rows) == pytest.approx([0, 0], abs=1e-6)
    cache = ImageCache(squares)
    keys = tuple(f"{key}#0" for key in cache.keys)
    (tmp_path / "images.json").write_text(cache.index.model_copy(update={"keys": keys}).model_dump_json())
    (tmp_path / "images.bin").symlink_to(squares / "images.bin")
    labels = (squares / "labels.jsonl").read_text("utf-8")
    (tmp_path / "labels.jsonl").write_text(labels.replace('","things', '#0","things'))
    judge_ = reader(["apple", "leaf"])
    features, _ = judge_.read(cache.pixels[cache.select(["train"])[:5]])
    found = things.copying(judge_, features, tmp_path, ThingsPlan(bootstrap=10))
    assert found.nearer.value == found.much_nearer.value == 1.0 and 0 < found.much < found.threshold


# ------------------------------------------------------------------------------------------- scenes


class Seer:
    """Reads what a prompt asks for off images whose red channel is the prompt's number, else nothing."""

    fingerprint, rules = "seer", Rules()

    def __init__(self, prompts: Sequence[ScenePrompt], honest: int) -> None:
        self.prompts, self.honest = prompts, honest

    def read(self, pictures: NDArray[np.uint8]) -> list[list[Detection]]:
        numbers = [int(picture[0, 0, 0]) for picture in pictures]
        return [truth(self.prompts[i]) if i % self.honest else [] for i in numbers]


def truth(prompt: ScenePrompt) -> list[Detection]:
    places = {"left": (0, 0), "right": (4, 0), "above": (0, 0), "below": (0, 4), "on": (0, 0)}
    found = []
    for place, one in enumerate(prompt.asked):
        x, y = (2, 2) if place else places.get(prompt.relation or "left", (0, 0))
        box = (float(x), float(y), x + 1.0, y + 1.0)
        found += [Detection(one.thing, box, 0.95, one.colour)] * one.count
    return found


def test_prompts_are_of_every_task_alike() -> None:
    prompts = scene_prompts()
    found = scenes.select_prompts(prompts, 26)
    counts = [sum(own.task == task for own in found) for task in get_args(Task)]
    assert sorted(counts) == [4, 4, 4, 4, 5, 5] and len(set(own.id for own in found)) == 26
    assert scenes.select_prompts(prompts, None) == list(prompts)


def test_scores_are_those_of_the_rules_by_brute_force() -> None:
    prompts = scenes.select_prompts(scene_prompts(), 60)
    seen = [truth(prompt) if i % 3 else [] for i, prompt in enumerate(prompts)]
    ceiling = np.arange(60) % 5 > 0
    found = scenes.score(prompts, seen, Rules(), ceiling, 100, 0)
    means = []
    for task in get_args(Task):
        rows = [i for i, own in enumerate(prompts) if own.task == task]
        right = [judge(prompts[i], seen[i], Rules()).right for i in rows]
        means.append(np.mean(right))
        assert found[task].right.value == pytest.approx(means[-1]) and found[task].images == len(rows)
        assert found[task].ceiling == pytest.approx(ceiling[rows].mean())
        half = len(rows) // 2
        swapped = [judge(prompts[i], seen[rows[place - half]], Rules()).right for place, i in enumerate(rows)]
        assert found[task].floor == pytest.approx(np.mean(swapped))
        assert sum(found[task].wrong.values()) == len(rows) - sum(right)
    assert found["overall"].right.value == pytest.approx(np.mean(means))


def test_images_are_generated_once_and_read_in_order(tmp_path: Path) -> None:
    plan = ScenesPlan(count=24, languages=("en",), batch=4, bootstrap=20)
    prompts = scenes.select_prompts(scene_prompts(), 24)
    numbers = {prompt.en: i for i, prompt in enumerate(prompts)}

    class Numbered(CocoGenerator):
        def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
            return [Image.new("RGB", (16, 16), (numbers[prompt], 0, 0)) for prompt in prompts]

    found = evaluate_scenes(plan, Seer(prompts, 2), Numbered(), tmp_path)
    assert found is not None
    right = [judge(own, truth(own) if i % 2 else [], Rules()).right for i, own in enumerate(prompts)]
    own = found[0].readings["en"]
    assert sum(round(own[task].right.value * own[task].images) for task in get_args(Task)) == sum(right)
    assert own["overall"].ceiling is None
