"""What is kept of an experiment: nothing twice, nothing under another's key, nothing lost by a stop."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.plans import PromptsPlan
from cogview.evaluation.sample_store import SampleStore, Sampling, generate_images, load_all


class Counter:
    """Every image has the colour (seed, place in its group, calls so far)."""

    name = "counter"

    def __init__(self, fingerprint: str = "a", precision: str = "fp32", last: int = 1000) -> None:
        self.fingerprint, self.precision, self.last = fingerprint, precision, last
        self.seeds: list[int] = []

    def generate(self, prompts: Sequence[str], seed: int, sampling: Sampling) -> list[Image.Image]:
        if len(self.seeds) == self.last:
            raise KeyboardInterrupt
        self.seeds.append(seed)
        return [Image.new("RGB", (8, 8), (seed, place, 0)) for place in range(len(prompts))]


def pixels(paths: list[Path] | None) -> list[tuple[int, ...]]:
    assert paths is not None
    return [tuple(own[0, 0].tolist()) for own in load_all(paths, Preprocessing(size=8))]


TEXTS = [f"text {i}" for i in range(7)]
PLAN = PromptsPlan(seed=0, batch=3, sampling={"top_k": 4})


def test_groups_have_their_seeds_and_a_stop_changes_nothing(tmp_path: Path) -> None:
    stopped = Counter(last=1)
    with pytest.raises(KeyboardInterrupt):
        generate_images(TEXTS, stopped, tmp_path, PromptsPlan(seed=5, batch=3))
    found = generate_images(TEXTS, going := Counter(), tmp_path, PromptsPlan(seed=5, batch=3))
    assert pixels(found) == [(5 + i - i % 3, i % 3, 0) for i in range(7)]
    assert (stopped.seeds, going.seeds) == ([5], [8, 11])


def test_ranks_share_and_wait(tmp_path: Path) -> None:
    first, second = Counter(), Counter()
    assert generate_images(TEXTS, first, tmp_path, PromptsPlan(batch=2), rank=(0, 2)) is None
    assert generate_images(TEXTS, second, tmp_path, PromptsPlan(batch=2), rank=(1, 2)) is not None
    assert (first.seeds, second.seeds) == ([0, 4], [2, 6])


@pytest.mark.parametrize(
    "changed",
    [
        {"generator": Counter("b")},
        {"generator": Counter(precision="int8")},
        {"texts": [*TEXTS[:6], "other"]},
        {"plan": PLAN.model_copy(update={"seed": 1})},
        {"plan": PLAN.model_copy(update={"sampling": {"top_k": 5}})},
        {"plan": PLAN.model_copy(update={"batch": 4})},
    ],
)
def test_whatever_changes_an_image_has_a_folder_of_its_own(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    asked = {"texts": TEXTS, "generator": Counter(), "plan": PLAN}
    paths = generate_images(work=tmp_path, **asked)  # type: ignore[arg-type]
    again = generate_images(work=tmp_path, **asked)  # type: ignore[arg-type]
    others = generate_images(work=tmp_path, **{**asked, **changed})  # type: ignore[arg-type]
    assert paths == again and paths and others and paths[0].parent != others[0].parent


def test_numbers_are_made_once_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    store = SampleStore.of(tmp_path, Counter(), TEXTS, 0, {})
    assert store.numbers("losses", 2, lambda: [1.5, 2.5]) == [1.5, 2.5]
    assert store.numbers("losses", 2, lambda: [0.0, 0.0]) == [1.5, 2.5]
    with pytest.raises(CogViewError, match=r"losses\.json: damaged"):
        store.numbers("losses", 3, lambda: np.zeros(3).tolist())
