"""The number of threads: from affinity, the container's limit and what other programs use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview import threads
from cogview.threads import Usage, choose, fitting, quota


@pytest.mark.parametrize(
    ("count", "used", "limit", "used_of_limit", "most", "expected"),
    [
        (2, 0.0, None, None, None, 2),
        (2, 0.1, None, None, None, 2),  # what an idle machine does in the background
        (2, 0.5, None, None, None, 1),
        (2, 1.0, None, None, None, 1),
        (2, 2.0, None, None, None, 1),
        (1, 1.0, None, None, None, 1),
        (16, 3.0, None, None, None, 13),
        (16, 0.0, 2.0, 0.0, None, 2),  # a container that may use two of sixteen cores
        (16, 0.0, 2.0, 1.0, None, 1),
        (16, 8.0, 2.0, 0.0, None, 2),  # other containers use the other cores
        (16, 0.0, 0.5, 0.0, None, 1),
        (16, 0.0, 1.5, 0.0, None, 1),
        (4, None, None, None, None, 4),  # a system that does not tell
        (64, 0.0, None, None, 8, 8),
    ],
)
def test_threads_are_the_cores_that_are_left(
    count: int,
    used: float | None,
    limit: float | None,
    used_of_limit: float | None,
    most: int | None,
    expected: int,
) -> None:
    assert fitting(count, used, limit, used_of_limit, most).threads == expected


@given(
    st.integers(1, 256),
    st.floats(0, 300),
    st.none() | st.floats(0.01, 300),
    st.floats(0, 300),
    st.integers(1, 64),
)
def test_never_fewer_than_one_nor_more_than_there_are(
    count: int, used: float, limit: float | None, used_of_limit: float, most: int
) -> None:
    found = fitting(count, used, limit, used_of_limit, most).threads
    assert 1 <= found <= max(1, min(count, most))
    assert fitting(count, used + 1, limit, used_of_limit, most).threads <= found


def test_the_reason_names_what_was_counted() -> None:
    said = fitting(16, 3.04, 4.0, 1.0, 8).reason
    assert said == "16 cores, 4.0 of them allowed to this container, 3.0 in use by other programs"
    assert "load unknown" in fitting(2).reason
    assert "more than 8 do not speed up" in fitting(64, 0.0, most=8).reason


def test_limits_of_both_kinds_of_control_groups(tmp_path: Path) -> None:
    """Files as the kernel writes them; the tightest limit of a group and those above it counts."""
    second, outer, first, free = (tmp_path / name for name in ("v2", "outer", "v1", "free"))
    for folder in (second, outer, first, free):
        folder.mkdir()
    (second / "cpu.max").write_text("350000 100000\n")
    (outer / "cpu.max").write_text("150000 100000\n")
    (first / "cpu.cfs_quota_us").write_text("200000\n")
    (first / "cpu.cfs_period_us").write_text("100000\n")
    (free / "cpu.max").write_text("max 100000\n")
    (free / "cpu.cfs_quota_us").write_text("-1\n")
    (free / "cpu.cfs_period_us").write_text("100000\n")
    assert quota([second]) == 3.5 and quota([second, outer]) == 1.5
    assert quota([first]) == 2.0 and quota([first, second]) == 2.0
    assert quota([free]) is None and quota([tmp_path]) is None and quota([]) is None


def test_busy_time_is_that_of_the_cores_allowed(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\n"
        "cpu0 100 20 30 4000 50 6 7 8 0 0\n"
        "cpu1 1000 0 0 4000 50 0 0 0 0 0\n"
        "intr 5 5 5\n"
    )
    tick = os.sysconf("SC_CLK_TCK")
    assert threads._busy(frozenset({0}), stat) == pytest.approx((100 + 20 + 30 + 6 + 7 + 8) / tick)
    assert threads._busy(frozenset({0, 1}), stat) == pytest.approx(1171 / tick)
    assert threads._busy(frozenset({5}), stat) is None
    assert threads._busy(frozenset({0}), tmp_path / "none") is None


def test_own_work_is_not_counted_as_others() -> None:
    before = Usage(10.0, cores=100.0, group=50.0, process=5.0)
    after = Usage(12.0, cores=103.0, group=51.0, process=6.0)
    assert after.others(before, group=False) == pytest.approx(1.0)
    assert after.others(before, group=True) == 0.0
    assert Usage(12.0, None, None, 6.0).others(before, group=False) is None
    assert before.others(before, group=False) is None


def test_another_program_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one, on this machine; how much of a core it gets depends on who else is there."""
    if Usage.now().cores is None:
        pytest.skip("this system does not tell how busy its cores are")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            start = Usage.now()
            time.sleep(0.5)
            used = Usage.now().others(start, group=False)
        finally:
            other.kill()
    assert used is not None and used > 0.05


def test_a_number_in_the_environment_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert choose() == threads.Choice(3, "OMP_NUM_THREADS is set")
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    assert 1 <= choose().threads <= len(threads.cores())
