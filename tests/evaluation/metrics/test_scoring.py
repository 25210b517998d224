"""The arithmetic against plain loops and closed forms."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.evaluation.metrics.accuracy import (
    Answers,
    bootstrap_weights,
    figure,
    floor,
    group_of,
    macro,
    overall,
    score,
)

NAMES = {"a": ("eyes", "top"), "b": ("eyes", "pot_color", "hill")}


@st.composite
def answers(draw: st.DrawFn) -> Answers:
    styles = draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=14))
    label = st.integers(0, 2)
    stated = [draw(st.dictionaries(st.sampled_from(NAMES[style]), label)) for style in styles]
    read = [{name: draw(label) for name in NAMES[style]} for style in styles]
    return Answers(styles, stated, read)


def ones(given: Answers) -> np.ndarray:
    return np.ones((1, len(given.styles)))


@settings(max_examples=80, deadline=None)
@given(answers())
def test_overall_and_macro_are_the_shares_counted_by_hand(given: Answers) -> None:
    tallies: dict[tuple[str, str], list[bool]] = {}
    for style, stated, read in zip(given.styles, given.stated, given.read, strict=True):
        for name, label in stated.items():
            tallies.setdefault((style, name), []).append(read[name] == label)
    every = [hit for hits in tallies.values() for hit in hits]
    if not every:
        assert math.isnan(overall(given, ones(given))[0])
        return
    shares = [Fraction(sum(hits), len(hits)) for hits in tallies.values()]
    assert overall(given, ones(given))[0] == pytest.approx(float(Fraction(sum(every), len(every))))
    assert macro(given, ones(given))[0] == pytest.approx(float(sum(shares) / len(shares)))
    counted = given.shares([f"{style}/{name}" for style, name in given.cells])
    assert {k: (s.right, s.stated) for k, s in counted.items()} == {
        f"{style}/{name}": (sum(hits), len(hits)) for (style, name), hits in tallies.items()
    }


@settings(max_examples=80, deadline=None)
@given(answers())
def test_floor_is_the_mean_over_all_swaps_within_a_style(given: Answers) -> None:
    hits = [
        given.read[j][name] == label
        for i in range(len(given.styles))
        for j in range(len(given.styles))
        if i != j and given.styles[i] == given.styles[j]
        for name, label in given.stated[i].items()
    ]
    assert floor(given) == (pytest.approx(sum(hits) / len(hits)) if hits else None)


def test_weights_are_repeated_pictures() -> None:
    """A bootstrap weight of k is the same as the picture standing k times in the list."""
    chance = np.random.default_rng(0)
    styles = ["a", "b"] * 10
    stated = [{name: int(chance.integers(2)) for name in NAMES[s] if chance.random() < 0.7} for s in styles]
    read = [{name: int(chance.integers(2)) for name in NAMES[s]} for s in styles]
    given = Answers(styles, stated, read)
    weights = bootstrap_weights(styles, 5, seed=1)
    for row in weights:
        rows = [i for i, k in enumerate(row) for _ in range(int(k))]
        copy = Answers([styles[i] for i in rows], [stated[i] for i in rows], [read[i] for i in rows])
        for measure in (overall, macro):
            assert measure(given, row[None])[0] == pytest.approx(measure(copy, ones(copy))[0])
    assert (weights[0] == 1).all()
    assert (weights[:, ::2].sum(1) == 10).all() and (weights[:, 1::2].sum(1) == 10).all()


def test_interval_is_that_of_a_share() -> None:
    """400 pictures with one statement each, 30 % right: the normal approximation is good to a few percent."""
    right = [i % 10 < 3 for i in range(400)]
    given = Answers(["a"] * 400, [{"eyes": 1}] * 400, [{"eyes": int(hit)} for hit in right])
    found = figure(overall(given, bootstrap_weights(given.styles, 4000, 0)))
    half = 1.96 * math.sqrt(0.3 * 0.7 / 400)
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - half, abs=0.006)
    assert found.high == pytest.approx(0.3 + half, abs=0.006)


def test_ratio_pairs_the_pictures() -> None:
    """Half of what the ceiling reads, picture by picture: the ratio is 1/2 in every draw."""
    styles = ["a"] * 20
    stated = [{"eyes": 1, "top": 1}] * 20
    real = Answers(styles, stated, [{"eyes": i % 2, "top": i % 2} for i in range(20)])
    half = Answers(styles, stated, [{"eyes": i % 2, "top": 0} for i in range(20)])
    found = score({"real": real, "half": half}, "real", times=300, seed=0)
    assert found["real"].of_ceiling is None
    ratio = found["half"].of_ceiling
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.high) == (0.5, 0.5, 0.5)
    assert found["half"].overall.value == 0.25
    assert found["half"].by_group["face"].value == 0.5
    assert found["half"].by_group["head and hair"].right == 0


def test_scores_repeat_with_the_seed() -> None:
    given = Answers(["a"] * 97, [{"eyes": i % 3} for i in range(97)], [{"eyes": i % 2} for i in range(97)])
    first, second = (score({"real": given}, "real", 50, seed) for seed in (4, 4))
    assert first == second
    assert first != score({"real": given}, "real", 50, 5)


def test_groups() -> None:
    names = ("background_color", "hat_color", "eyes", "hair", "surface", "pot", "glasses")
    assert [group_of(name) for name in names] == [
        "background colour",
        "colour of a part",
        "face",
        "head and hair",
        "pattern",
        "shape",
        "other",
    ]
