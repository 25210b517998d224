"""A short run of the suite; ``make hostile`` is the long one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import mutate, sandbox
from tests.hostile.__main__ import Record

ROOT = Path(__file__).parents[2]
CASES = 40

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cases are forked and watched as on Linux")


def test_nothing_hostile_breaks_the_program(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "tests.hostile", "--cases", str(CASES), "--out", str(report)]
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert report.exists(), done.stderr
    found = json.loads(report.read_text("utf-8"))
    assert found["failures"] == [] and found["cases"] > CASES
    assert found["refused"] > CASES  # that most files are refused shows that they are hostile


# ------------------------------------------------------------------- that the sandbox sees what it is for


def test_each_bad_end_has_a_name(tmp_path: Path) -> None:
    def ended(work: sandbox.Work, **limits: float) -> str:
        return sandbox.run(work, sandbox.empty(tmp_path / "case"), **limits).end  # type: ignore[arg-type]

    def endless() -> int:
        while True:
            pass

    def told() -> int:
        print("error: no", file=sys.stderr)
        return 2

    held: list[bytearray] = []

    def large() -> int:
        while True:
            held.append(bytearray(b"x" * (8 << 20)))

    assert ended(lambda: 0) == "fine"
    assert ended(told) == "refused"
    assert ended(lambda: 2) == "silent"
    assert ended(lambda: 1 // 0) == "traceback"
    assert ended(lambda: os.kill(os.getpid(), signal.SIGKILL)) == "crash"
    assert ended(endless, seconds=0.3) == "hang"
    assert ended(large, memory=600 << 20) == "memory"
    assert ended(lambda: os.system("true")) == "execution"
    assert ended(lambda: (tmp_path / "elsewhere").write_text("x") and 0) == "execution"


def test_the_same_seed_makes_the_same_cases() -> None:
    value = {"a": [1, 2, {"b": "c"}], "d": 1.5}
    made = [mutate.as_json(mutate.mutated(value, chance), chance) for chance in map(random.Random, [3, 3, 4])]
    assert made[0] == made[1] != made[2]


def test_raw_parts_stand_in_json_as_they_are() -> None:
    assert (
        mutate.as_json({"a": mutate.RAW + "NaN", "b": [mutate.RAW + '"\\ud800"']})
        == b'{"a": NaN, "b": ["\\ud800"]}'
    )


def test_a_stopped_run_goes_on_with_its_counts(tmp_path: Path) -> None:
    asked = {"seed": 0, "code": "a b"}
    path = tmp_path / "report.json"
    record = Record.open(path, asked)
    record.counts.add("pictures", 0, sandbox.Outcome("fine", "", 1.0, 300 << 20, 0.5))
    record.counts.add("tables", 0, sandbox.Outcome("hang", "...", 61.0, 200 << 20, 60.0))
    record.done = 2
    record.save(finished=False)

    again = Record.open(path, asked)
    assert again.done == 2
    again.counts.add("pictures", 1, sandbox.Outcome("refused", "error: no", 2.0, 100 << 20, 1.0))
    report = again.save(finished=True)
    assert report["kinds"] == {"pictures": {"fine": 1, "refused": 1}, "tables": {"hang": 1}}
    assert (report["cases"], report["slowest_seconds"], report["largest_megabytes"]) == (3, 61.0, 300)
    assert [failure["case"] for failure in report["failures"]] == ["tables:0"]
    assert Record.open(path, asked).done == 0  # it is finished

    record.save(finished=False)
    assert Record.open(path, asked | {"code": "a c"}).done == 0  # what is tested has changed
