"""Progress without a terminal: a line now and then."""

from __future__ import annotations

import re

import pytest

from cogview.cli.output import EVERY, FIRST, ProgressLines, bar, bars


def told(times: list[float], total: int = 100) -> list[str]:
    """The lines of work whose step i of ``total`` ends at ``times[i]`` seconds."""
    clock, lines = iter([0.0, *times]), list[str]()
    show = ProgressLines("drawing", lambda: next(clock), lines.append)
    for done, _ in enumerate(times, 1):
        show(done, total)
    return lines


def test_short_work_says_nothing() -> None:
    assert told([0.01 * i for i in range(1, 101)]) == []


def test_long_work_says_how_much_is_left() -> None:
    """100 steps of a second each: the first line after FIRST seconds, then one in EVERY seconds."""
    lines = told([float(i) for i in range(1, 101)])
    assert lines[0] == "drawing: 5 %, about 1 min 35 s left"
    assert lines[1] == f"drawing: {FIRST + EVERY:.0f} %, about 1 min 20 s left"
    assert len(lines) == 7 and lines[-1] == "drawing: 95 %, about 5 s left"


def test_work_of_hours() -> None:
    assert told([72.0]) == ["drawing: 1 %, about 1 h 58 min left"]


def test_on_a_terminal_everything_has_its_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "100")
    with bars() as shows:
        for what, done in (("drawing zh", 1), ("drawing en", 3), ("drawing zh", 2)):
            shows(what, done, 7)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).splitlines()
    assert any("drawing zh" in line and "2/7" in line for line in lines)
    assert any("drawing en" in line and "3/7" in line for line in lines)
    with bar("enlarging") as show:
        show(1, 4)
    assert "25%" in capsys.readouterr().err


def test_work_that_is_done_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert told([60.0], total=1) == []
    with bar() as show, bars() as shows:
        show(1, 2)
        shows("reading", 1, 2)
    assert capsys.readouterr() == ("", "")
