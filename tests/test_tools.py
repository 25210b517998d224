"""What the scripts in tools/ count, on tests made for it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import os
import pytest

seen = []

@pytest.mark.parametrize("number", [1, 2])
def test_is_the_first_of_its_process(number):
    seen.append(number)
    assert len(seen) == 1

def test_ends_its_process():
    os._exit(3) if "{ends}" in os.environ else None

@pytest.mark.skipif(os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX2", reason="as asked")
def test_may_be_skipped():
    pass

@pytest.mark.slow
def test_is_not_in_the_quick_tier():
    raise AssertionError
"""


def test_settings_are_counted_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone each test is the first; a test that takes its process along is one failure."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)  # the whole suite runs under it, too
    monkeypatch.setenv("ENDS", "1")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # quicker, and in this order
    (tmp_path / "test_some.py").write_text(TESTS.format(ends="ENDS"), "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n", "utf-8")
    out = tmp_path / "settings.json"
    main = runpy.run_path(str(ROOT / "tools" / "test_settings.py"))["main"]
    words = ["--tests", str(tmp_path / "test_some.py"), "--out", str(out), "--only"]
    assert main([*words, "each alone"]) == 1
    found = json.loads(out.read_text("utf-8"))
    alone = found["settings"]["each alone"]
    assert (alone["passed"], alone["failed"], alone["skipped"]) == (3, 1, 0)
    assert alone["failures"] == ["test_some::test_ends_its_process"]

    monkeypatch.delenv("ENDS")
    assert main([*words, "each alone", "oneDNN avx2"]) == 1
    again = json.loads(out.read_text("utf-8"))["settings"]
    assert again["each alone"] == alone  # the same code and tests: not run again
    if "avx2" in found["processor"]["instructions"]:
        assert (again["oneDNN avx2"]["passed"], again["oneDNN avx2"]["skipped"]) == (2, 1)
        assert again["oneDNN avx2"]["failures"] == ["test_some::test_is_the_first_of_its_process[2]"]
    else:
        assert again["oneDNN avx2"] == {"absent": "avx2"}
