"""Who sees what: complete, blind to order, and balanced for any even number of raters."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.study.assignment import half_of, tasks_for
from cogview.study.records import Study


def make_study(captions: int, asked: int, seed: int = 0, ab: bool = True) -> Study:
    models = ("a", "b", "c", "d")
    groups = [
        {"key": f"k{n}", "captions": {"": f"caption {n}"}, "pictures": {m: f"{n}{m}.png" for m in models}}
        for n in range(captions)
    ]
    data = {"id": "0" * 32, "title": "", "seed": seed, "models": models, "size": (8, 8), "groups": groups}
    return validate(Study, {**data, "captions_per_rater": asked, "ab": ("c", "d") if ab else None}, "test")


sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(sizes, st.integers(0, 99), st.integers(1, 30))
def test_a_rater_is_asked_different_captions_and_every_place_once(
    size: tuple[int, int], seed: int, rater: int
) -> None:
    tasks = tasks_for(make_study(*size, seed), rater)
    assert len({task.group for task in tasks}) == len(tasks) == size[1]
    for task in tasks:
        assert set(task.models) in ({"a", "b", "c"}, {"a", "b", "d"})
        assert len(task.models) == 3


@given(sizes, st.integers(0, 99), st.integers(1, 8))
def test_both_sides_of_the_test_get_the_same_number_of_answers_for_every_caption(
    size: tuple[int, int], seed: int, pairs: int
) -> None:
    study = make_study(*size, seed)
    seen = Counter(
        (task.group, model)
        for rater in range(1, 2 * pairs + 1)
        for task in tasks_for(study, rater)
        for model in task.models
    )
    assert all(seen[group, "c"] == seen[group, "d"] for group in range(size[0]))


@given(sizes, st.integers(0, 99))
def test_captions_are_asked_equally_often(size: tuple[int, int], seed: int) -> None:
    study = make_study(*size, seed)
    raters = 2 * size[0]
    asked = Counter(task.group for rater in range(1, raters + 1) for task in tasks_for(study, rater))
    assert set(asked.values()) == {2 * size[1]}


def test_halves_are_opposite_in_a_pair_and_drawn() -> None:
    study = make_study(10, 10)
    halves = [half_of(study, rater) for rater in range(1, 201)]
    assert all(first + second == 1 for first, second in list(pairwise(halves))[::2])
    assert 30 < sum(halves[::2]) < 70  # a coin, not always the first of the pair
    for rater in (1, 2):  # a rater sees the one for half of the captions, the other for the rest
        assert Counter("c" in task.models for task in tasks_for(study, rater)) == {True: 5, False: 5}


def orders(study: Study) -> Iterator[tuple[str, ...]]:
    for rater in range(1, 301):
        yield from (task.models for task in tasks_for(study, rater))


def test_every_model_stands_at_every_place_equally_often() -> None:
    """1,200 groups of four: each of the 16 cells expects 300; five deviations are 75."""
    counts = Counter(
        (place, model) for order in orders(make_study(4, 4, ab=False)) for place, model in enumerate(order)
    )
    assert len(counts) == 16
    assert all(abs(count - 300) < 75 for count in counts.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ("a", "a", "c", "d")}, "is given twice"),
        ({"ab": ("c", "x")}, "no model is named 'x'"),
        ({"ab": ("c", "c")}, "two different models"),
        ({"captions_per_rater": 3}, "only 2 captions"),
        ({"models": ("a", "b", "c", "d", "e")}, "images of other models"),
        ({"consistency": 1.0}, "less than 1"),
        ({"colour": "red"}, "no such key"),
    ],
)
def test_a_wrong_study_is_one_line(change: dict[str, object], said: str) -> None:
    data = make_study(2, 2).model_dump() | change
    with pytest.raises(CogViewError, match=said) as caught:
        validate(Study, data, "study.json")
    assert "\n" not in str(caught.value)
