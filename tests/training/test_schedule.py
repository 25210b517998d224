"""Learning rates: the released code's table, and the closed form of ours at its corners."""

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from cogview.training.schedule import Schedule, released_factor

TABLE = json.loads((Path(__file__).parents[1] / "fixtures/cogview1/lr_schedule.json").read_text())


@pytest.mark.parametrize("style", TABLE["table"])
def test_released_table(style: str) -> None:
    for iteration, rate in TABLE["table"][style].items():
        factor = released_factor(
            style, int(iteration), TABLE["num_iters"], TABLE["warmup"], TABLE["decay_ratio"]
        )
        assert factor * TABLE["start_lr"] == pytest.approx(rate, rel=1e-12, abs=1e-15)


def test_released_kinds_use_the_released_formula() -> None:
    schedule = Schedule(kind="released_cosine", warmup=0.1, floor=0.1)
    assert schedule.factor(500, 1000) * 4e-4 == pytest.approx(TABLE["table"]["cosine"]["500"], rel=1e-12)
    assert schedule.factor(0, 1000) == 0


def test_warm_up_is_linear_and_never_zero() -> None:
    schedule = Schedule(warmup=0.02)
    assert [schedule.factor(step, 500) for step in range(10)] == pytest.approx([n / 10 for n in range(1, 11)])


@pytest.mark.parametrize(("kind", "middle"), [("cosine", 0.55), ("linear", 0.55), ("constant", 1.0)])
def test_middle_and_end(kind: str, middle: float) -> None:
    schedule = Schedule.model_validate({"kind": kind, "warmup": 0, "floor": 0.1})
    assert schedule.factor(0, 1001) == 1
    assert schedule.factor(500, 1001) == pytest.approx(middle)
    assert schedule.factor(1000, 1001) == pytest.approx(1.0 if kind == "constant" else 0.1)


def test_cosine_quarter() -> None:
    assert Schedule(warmup=0, floor=0).factor(25, 101) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_hold_keeps_the_peak() -> None:
    schedule = Schedule(kind="linear", warmup=0.1, hold=0.5, floor=0)
    assert [schedule.factor(step, 100) for step in (9, 59, 60)] == [1, 1, 1]
    assert schedule.factor(99, 100) == 0


@pytest.mark.parametrize("fields", [{"warmup": 0.6, "hold": 0.5}, {"kind": "released_linear", "hold": 0.1}])
def test_impossible_combinations(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Schedule.model_validate(fields)
