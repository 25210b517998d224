"""Answers survive: races, double posts, kill -9; and nobody but the invited gets in."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import string
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cogview.errors import CogViewError
from cogview.study.records import ANSWERS, SCALES, SECRET
from cogview.study.store import NotYet, Store
from tests.study.conftest import ENV

Make = Callable[..., Store]
GOOD = {"clarity": 3, "texture": 4, "relevance": 5, "overall": 10}


def answer_all(store: Store, rater: int, seed: int = 0) -> dict[tuple[int, int | None], dict[str, int]]:
    """Answer everything; what was given."""
    draw, given = random.Random(1000 * seed + rater), {}
    for position, slot in store.progress(rater).steps:
        if slot is None:
            best = draw.randint(1, store.progress(rater).slots(position))
            store.choose(rater, position, best)
            given[position, slot] = {"best": best}
        else:
            scores = {s: draw.randint(1, 10 if s == "overall" else 5) for s in SCALES}
            store.score(rater, position, slot, scores)
            given[position, slot] = scores
    return given


def kept(store: Store, rater: int) -> dict[tuple[int, int | None], dict[str, int]]:
    """What the database says was given."""
    progress = store.progress(rater)
    choices = {(position, None): {"best": slot} for position, slot in progress.choices.items()}
    return choices | {step: dict(scores) for step, scores in progress.scores.items()}


def test_a_rater_goes_on_where_they_left(make_store: Make) -> None:
    store = make_store()
    assert store.progress(1).next == (1, 1)
    store.score(1, 1, 1, GOOD)
    again = Store.open(store.directory)
    assert again.progress(1).next == (1, 2)
    assert again.progress(1).scores == {(1, 1): GOOD}
    given = answer_all(again, 1)
    assert kept(store, 1) == given and store.progress(1).next is None
    assert store.progress(2).next == (1, 1)


def test_the_best_is_not_chosen_before_all_have_scores(make_store: Make) -> None:
    store = make_store()
    store.score(1, 1, 1, GOOD)
    store.score(1, 1, 2, GOOD)
    with pytest.raises(NotYet):
        store.choose(1, 1, 1)
    store.score(1, 1, 3, GOOD)
    store.choose(1, 1, 1)
    assert store.progress(1).choices == {1: 1}


@pytest.mark.parametrize("wrong", [{"clarity": 6}, {"overall": 11}, {"texture": 0}, {"overall": "x"}])
def test_the_database_itself_refuses_what_cannot_be(make_store: Make, wrong: dict[str, int]) -> None:
    store = make_store()
    with pytest.raises((sqlite3.IntegrityError, CogViewError)):
        store.score(1, 1, 1, GOOD | wrong)
    for place in ((9, 1, 1), (1, 9, 1), (1, 1, 9)):
        with pytest.raises(sqlite3.IntegrityError):
            store.score(*place, GOOD)
    assert not any(a.overall for a in store.answers())


def test_a_double_post_changes_nothing_and_another_answer_replaces(make_store: Make) -> None:
    store = make_store()
    store.score(1, 1, 1, GOOD)
    with sqlite3.connect(store.directory / ANSWERS) as database:
        first = database.execute("SELECT * FROM scores").fetchall()
    store.score(1, 1, 1, GOOD)
    with sqlite3.connect(store.directory / ANSWERS) as database:
        assert database.execute("SELECT * FROM scores").fetchall() == first
    store.score(1, 1, 1, GOOD | {"overall": 1})
    assert store.progress(1).scores[1, 1]["overall"] == 1
    assert sum(a.overall is not None for a in store.answers()) == 1


def test_many_raters_race_and_every_answer_is_kept(make_store: Make) -> None:
    """Twelve threads, two for each rater, who send the same answers at the same time."""
    store = make_store(raters=6, captions=2)
    with ThreadPoolExecutor(12) as pool:
        given = list(pool.map(lambda n: answer_all(store, n % 6 + 1), range(12)))
    for rater in range(1, 7):
        assert kept(store, rater) == given[rater - 1] == given[rater + 5]


def test_inviting_at_the_same_time_invites_once(make_store: Make) -> None:
    store = make_store(raters=1)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(store.invite, [9] * 8)) == {9}
    assert store.raters() == 9
    assert len({(a.rater, a.position, a.slot) for a in store.answers()}) == len(store.answers()) == 9 * 12
    before = store.answers()
    assert store.invite(4) == 9 and store.answers() == before


WRITER = """
import random, sys
from pathlib import Path
from cogview.study.store import Store
from cogview.study.records import SCALES
store, rater = Store.open(Path(sys.argv[1])), int(sys.argv[2])
draw = random.Random(rater)
while True:
    for position, slot in store.progress(rater).steps:
        if slot:
            scores = {s: draw.randint(1, 5) for s in SCALES}
            store.score(rater, position, slot, scores)
            print(position, slot, *scores.values(), flush=True)
"""


def test_killing_the_writers_loses_nothing_they_were_told_is_saved(make_store: Make) -> None:
    """Two processes write without end and are killed with SIGKILL; each line they print is a saved answer."""
    store = make_store(raters=2)
    arguments = [[sys.executable, "-c", WRITER, str(store.directory), str(rater)] for rater in (1, 2)]
    writers = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True, env=ENV) for each in arguments]
    lines: list[list[str]] = []
    for writer in writers:
        assert writer.stdout
        lines.append([writer.stdout.readline() for _ in range(25)])
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
    for rater, (writer, first) in enumerate(zip(writers, lines, strict=True), 1):
        assert writer.stdout
        told = [
            line.split() for line in [*first, *writer.stdout.read().splitlines()] if len(line.split()) == 6
        ]
        writer.wait()
        writer.stdout.close()
        last = {(int(line[0]), int(line[1])): [int(word) for word in line[2:]] for line in told}
        there = {step: list(scores.values()) for step, scores in store.progress(rater).scores.items()}
        different = [step for step in last if there[step] != last[step]]
        assert len(last) == 12 and len(different) <= 1  # one may have been saved and not told any more
    with sqlite3.connect(store.directory / ANSWERS) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_tokens_are_one_a_rater_and_no_other_opens(make_store: Make) -> None:
    store = make_store(raters=3)
    tokens = [store.token(rater) for rater in (1, 2, 3, 4)]
    assert [store.rater(token) for token in tokens] == [1, 2, 3, None]  # a right token of one not invited
    assert Store.open(store.directory).token(2) == tokens[1]
    for letter in string.ascii_letters[:8]:
        forged = tokens[0][:-1] + letter
        assert forged == tokens[0] or store.rater(forged) is None
    swapped = f"2-{tokens[0].partition('-')[2]}"
    for wrong in (
        "",
        "1",
        "1-",
        swapped,
        tokens[0] + "x",
        "0" + tokens[0],
        tokens[0].replace("1-", "１-"),
        "x" * 999,
    ):
        assert store.rater(wrong) is None
    assert not any(
        token.partition("-")[2].encode() in (store.directory / ANSWERS).read_bytes() for token in tokens
    )


def test_a_broken_folder_is_one_line(make_store: Make, tmp_path: Path) -> None:
    store = make_store()
    (store.directory / ANSWERS).write_bytes(b"not a database" * 100)
    with pytest.raises(CogViewError, match="file is not a database"):
        Store.open(store.directory)
    (store.directory / SECRET).write_text("no")
    with pytest.raises(CogViewError, match=r"secret: cannot be read"):
        Store.open(store.directory)


def test_answers_of_another_study_are_refused(make_store: Make) -> None:
    store = make_store()
    with sqlite3.connect(store.directory / ANSWERS) as database:
        database.execute("UPDATE study SET id = ?", ("f" * 32,))
    with pytest.raises(CogViewError, match="belongs to another study"):
        Store.open(store.directory)
