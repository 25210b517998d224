"""The rules of scenes against a brute force written from GenEval's definition, and against real prompts."""

import itertools
import math
import random

import pytest

from cogview.evaluation.metrics.scene_rules import (
    Box,
    Detection,
    Rules,
    ScenePrompt,
    Target,
    Verdict,
    directions,
    is_behind,
    is_on,
    judge,
    overall,
    shares,
)

SURE = Rules(found=0.3, counted=0.9)


def prompt(task: str, *asked: Target, relation: str | None = None) -> ScenePrompt:
    return ScenePrompt.model_validate(
        {"id": "x", "task": task, "en": "", "zh": "", "asked": asked, "relation": relation}
    )


def some_box(chance: random.Random) -> Box:
    left, top = chance.randint(0, 200), chance.randint(0, 200)
    return left, top, left + chance.randint(1, 90), top + chance.randint(1, 90)


def geneval_relations(a: Box, b: Box) -> set[str]:
    """GenEval's definition, one step at a time: shrink the offset, then compare with its own direction."""
    centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
    offset = [centres[0][axis] - centres[1][axis] for axis in (0, 1)]
    sizes = [(a[axis + 2] - a[axis]) + (b[axis + 2] - b[axis]) for axis in (0, 1)]
    shrunk = [math.copysign(max(abs(o) - 0.1 * s, 0), o) for o, s in zip(offset, sizes, strict=True)]
    length = math.hypot(*offset)
    if length == 0 or all(abs(part) < 1e-9 for part in shrunk):
        return set()
    x, y = (part / length for part in shrunk)
    named = {"left": x < -0.5, "right": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, holds in named.items() if holds}


def test_directions_are_geneval_s() -> None:
    chance = random.Random(0)
    for _ in range(5000):
        a, b = some_box(chance), some_box(chance)
        assert directions(a, b) == geneval_relations(a, b)


def test_directions_are_opposite_the_other_way_round() -> None:
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    chance = random.Random(1)
    for _ in range(500):
        a, b = some_box(chance), some_box(chance)
        assert directions(b, a) == {opposite[name] for name in directions(a, b)}


@pytest.mark.parametrize(
    ("upper", "lower", "on"),
    [
        ((40, 0, 60, 50), (20, 50, 80, 100), True),  # exactly on top
        ((40, 5, 60, 55), (20, 50, 80, 100), True),  # a little into it
        ((40, 0, 60, 30), (20, 50, 80, 100), False),  # floats far above
        ((85, 0, 105, 50), (20, 50, 80, 100), False),  # beside
        ((40, 50, 60, 100), (20, 50, 80, 100), False),  # before
        ((20, 50, 80, 100), (40, 0, 60, 50), False),  # under
    ],
)
def test_a_thing_is_on_another_where_its_foot_meets_the_top(upper: Box, lower: Box, on: bool) -> None:
    assert is_on(upper, lower) is on


def test_what_is_behind_is_overlapped_by_what_stands_nearer() -> None:
    assert is_behind((0, 0, 50, 50), (30, 30, 80, 80))
    assert not is_behind((30, 30, 80, 80), (0, 0, 50, 50))
    assert not is_behind((0, 0, 50, 50), (60, 30, 90, 80))


def test_a_count_is_exact_and_asks_for_confidence() -> None:
    asked = prompt("count", Target(thing="cat", count=3))
    for sure, unsure in itertools.product(range(6), range(4)):
        seen = [Detection("cat", (0, 0, 1, 1), 0.95)] * sure + [Detection("cat", (0, 0, 1, 1), 0.5)] * unsure
        seen += [Detection("dog", (0, 0, 1, 1), 0.95)]
        assert judge(asked, seen, SURE).right is (sure == 3)


def test_two_things_need_both_and_allow_others() -> None:
    asked = prompt("two", Target(thing="cat"), Target(thing="dog"))
    for names in itertools.product(["cat", "dog", "car"], repeat=3):
        seen = [Detection(name, (0, 0, 1, 1), 0.4) for name in names]
        verdict = judge(asked, seen, SURE)
        assert verdict.right is ("cat" in names and "dog" in names)
        assert verdict.right or verdict == Verdict(False, "missing")


def test_colours_are_those_of_the_most_confident() -> None:
    asked = prompt("colours", Target(thing="car", colour="red"), Target(thing="house", colour="blue"))
    for car, house in itertools.product(["red", "blue"], repeat=2):
        seen = [
            Detection("car", (0, 0, 1, 1), 0.9, car),
            Detection("car", (0, 0, 1, 1), 0.5, "red"),
            Detection("house", (0, 0, 1, 1), 0.8, house),
        ]
        verdict = judge(asked, seen, SURE)
        assert verdict.right is ((car, house) == ("red", "blue"))
        assert verdict.right or verdict.wrong == "colour"


def test_positions_are_the_first_thing_s() -> None:
    boxes: dict[str, Box] = {"cat": (0, 40, 50, 90), "dog": (150, 50, 200, 100)}
    seen = [Detection(name, box, 0.9) for name, box in boxes.items()]
    for relation in ("left", "right", "above", "below"):
        asked = prompt("position", Target(thing="cat"), Target(thing="dog"), relation=relation)
        assert judge(asked, seen, SURE).right is (relation == "left")
        turned = prompt("position", Target(thing="dog"), Target(thing="cat"), relation=relation)
        assert judge(turned, seen, SURE).right is (relation == "right")


def test_shares_are_counted_by_task_and_weigh_the_same() -> None:
    asked = [prompt("one", Target(thing="cat"))] * 4 + [
        prompt("two", Target(thing="cat"), Target(thing="dog"))
    ]
    found = shares(asked, [Verdict(True)] + [Verdict(False, "missing")] * 3 + [Verdict(True)])
    assert {task: (share.right, share.stated) for task, share in found.items()} == {
        "one": (1, 4),
        "two": (1, 1),
    }
    assert overall(found) == pytest.approx((0.25 + 1) / 2)


def test_a_relation_belongs_to_positions_only() -> None:
    with pytest.raises(ValueError, match="relation"):
        prompt("position", Target(thing="cat"), Target(thing="dog"))
    with pytest.raises(ValueError, match="relation"):
        prompt("two", Target(thing="cat"), Target(thing="dog"), relation="left")
