"""The report against a plain computation from its CSV, closed forms, and the rule of consistency."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from cogview.cli.app import main
from cogview.study.statistics import compute, judge_rater
from cogview.study.store import Answer, Store

Make = Callable[..., Store]


def fill(store: Store, rater: int, contradict: int = 0, seed: int = 0, stop: int = 10_000) -> None:
    """Answer with random scores; the best is the highest, but in ``contradict`` of the groups."""
    draw, scores = random.Random(100 * seed + rater), dict[int, int]()
    for position, slot in store.progress(rater).steps[:stop]:
        if slot is None:
            order = sorted(scores, key=lambda each: scores[each])
            store.choose(rater, position, order[0] if position <= contradict else order[-1])
            scores = {}
        else:
            scores[slot] = draw.choice([v for v in range(1, 11) if v not in scores.values()])
            rest = {scale: draw.randint(1, 5) for scale in ("clarity", "texture", "relevance")}
            store.score(rater, position, slot, rest | {"overall": scores[slot]})


def test_the_report_is_what_the_csv_says(make_store: Make, simulate: ModuleType, tmp_path: Path) -> None:
    store = make_store(raters=9, captions=6)
    for rater in range(1, 7):
        fill(store, rater)
    fill(store, 7, contradict=2)  # consistent in 4 of 6
    fill(store, 8, stop=11)  # unfinished
    assert main(["study", "report", str(store.directory), "-o", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"r{n}" for n in ("atings.csv", "eport.json", "eport.png", "eport.html")
    }
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    simulate.same_figures(report, simulate.brute_force(tmp_path / "out" / "ratings.csv"))
    outcomes = [rater["outcome"] for rater in report["figures"]["raters"]]
    assert outcomes == ["kept"] * 6 + ["inconsistent", "unfinished", "not begun"]
    models = report["figures"]["models"]
    assert sum(model["best"]["best"] for model in models.values()) == 36
    assert [models[name]["best"]["shown"] for name in ("real", "old", "plain", "sharp")] == [36, 36, 18, 18]
    test = report["figures"]["ab"]
    for scale in ("clarity", "overall"):
        means = [models[name]["scores"][scale]["mean"] for name in ("plain", "sharp")]
        assert test["difference"][scale] == pytest.approx(means[1] - means[0], abs=1e-12)
        assert test["interval"][scale][0] < test["difference"][scale] < test["interval"][scale][1]


def test_the_csv_has_every_picture_and_no_formula(make_store: Make, tmp_path: Path) -> None:
    store = make_store(raters=2, captions=2)
    fill(store, 1)
    assert main(["study", "report", str(store.directory), "-o", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "ratings.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert all((row["overall"] == "") == (row["rater"] == "2") for row in rows)
    assert {row["half"] for row in rows} == {"A", "B"}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "caption &lt;0&gt;" in page and "<script" not in page and not re.search("https?:", page)


def test_no_rater_kept_is_one_line_and_the_csv_is_there(
    make_store: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_store(raters=2)
    fill(store, 1, contradict=4)
    assert main(["study", "report", str(store.directory), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "2 invited, 1 finished, 0 kept, 1 inconsistent" in said and said.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ratings.csv"]


def answers(rater: int, groups: list[tuple[list[int], int]]) -> list[Answer]:
    """A rater's answers: for each group the overall scores and the number of the best."""
    return [
        Answer(
            rater=rater,
            half=0,
            position=position,
            slot=slot,
            caption=f"c{position}",
            model=f"m{slot}",
            clarity=3,
            texture=3,
            relevance=3,
            overall=score,
            best=slot == best,
            saved="now",
        )
        for position, (scores, best) in enumerate(groups, 1)
        for slot, score in enumerate(scores, 1)
    ]


@pytest.mark.parametrize(
    ("wrong", "of", "outcome"),
    [(0, 5, "kept"), (1, 5, "inconsistent"), (10, 50, "inconsistent"), (9, 50, "kept")],
)
def test_more_than_80_percent_must_agree(wrong: int, of: int, outcome: str) -> None:
    groups = [([9, 4], 2 if number < wrong else 1) for number in range(of)]
    assert judge_rater(answers(1, groups), 0.8).outcome == outcome


def test_a_tie_for_the_highest_agrees() -> None:
    assert judge_rater(answers(1, [([7, 7, 2], 2)]), 0.8).consistency == 1


def test_an_answer_missing_anywhere_is_unfinished() -> None:
    whole = answers(1, [([9, 4], 1), ([9, 4], 1)])
    unscored = [a.model_copy(update={"overall": None} if a.slot == 2 else {}) for a in whole]
    unchosen = [a.model_copy(update={"best": None} if a.position == 2 else {}) for a in whole]
    assert {judge_rater(rows, 0.8).outcome for rows in (unscored, unchosen)} == {"unfinished"}


def test_intervals_are_those_of_a_bootstrap_over_raters() -> None:
    """Against drawing raters one by one, and the normal interval of the raters' means."""
    draw = np.random.default_rng(5)
    scores = draw.integers(1, 10, size=(40, 3))
    rows = [a for rater in range(40) for a in answers(rater, [([10, int(s)], 1) for s in scores[rater]])]
    mean = compute(rows, ("m1", "m2"), resamples=4000).models["m2"].scores["overall"]
    assert mean.mean == pytest.approx(scores.mean(), abs=1e-12)
    assert mean.deviation == pytest.approx(scores.std(ddof=1), abs=1e-12)
    assert mean.interval
    plain = [scores[draw.integers(0, 40, size=40)].mean() for _ in range(4000)]
    assert mean.interval == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=0.06)
    error = 1.96 * scores.mean(1).std(ddof=1) / 40**0.5
    assert mean.interval == pytest.approx((scores.mean() - error, scores.mean() + error), abs=0.08)


def test_the_figures_do_not_depend_on_the_order_of_answers() -> None:
    rows = [a for rater in range(6) for a in answers(rater, [([9, rater + 1], 1), ([8, 3], 1)])]
    mixed = random.Random(1).sample(rows, len(rows))
    assert compute(mixed, ("m1", "m2")) == compute(rows, ("m1", "m2"))


def test_one_rater_has_figures_and_no_interval() -> None:
    figures = compute(answers(1, [([9, 4], 1)]), ("m1", "m2"))
    assert figures.models["m1"].best.share == 1
    assert figures.models["m1"].scores["overall"].interval is None
    assert figures.models["m1"].scores["overall"].deviation is None
