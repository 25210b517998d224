"""``cogview doctor``: its report against what this machine says elsewhere."""

import importlib.metadata
import json
import os
from pathlib import Path

import pytest

from cogview import __version__
from cogview.cli import doctor
from cogview.cli.app import main
from cogview.provenance import model_hash


def make_model(root: Path, family: str) -> None:
    root.mkdir(parents=True)
    (root / "family.json").write_text(family, encoding="utf-8")
    (root / "model.safetensors").write_bytes(b"x" * 100)


def test_the_report(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(home / "models/mine", '{"name": "mine"}')
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["problems"] else 0)
    assert report["versions"]["cogview"] == __version__
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    assert 1 <= report["device"]["cores"] <= (os.cpu_count() or 1)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert report["memory"]["total"] == pytest.approx(pages, rel=0.05)
    assert 0 < report["memory"]["available"] <= report["memory"]["total"]
    assert report["cache"] == {"path": str(home), "writable": True}
    [mine] = [model for model in report["models"] if model["path"] == str(home / "models/mine")]
    assert (mine["name"], mine["bytes"]) == ("mine", 100 + len('{"name": "mine"}'))
    assert mine["hash"] == model_hash(home / "models/mine")


def test_the_lines_say_the_same(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_model(home / "models/mine", '{"name": "mine"}')
    main(["doctor"])
    text = capsys.readouterr().out
    assert f"model     mine: 0.0 MB, {model_hash(home / 'models/mine')[:12]}" in text
    assert f"torch {importlib.metadata.version('torch')}" in text


@pytest.mark.parametrize("family", ["{", "[]", "{}", '{"nam": 1}'])
def test_a_damaged_model_is_a_problem(home: Path, capsys: pytest.CaptureFixture[str], family: str) -> None:
    make_model(home / "models/broken", family)
    assert main(["doctor"]) == 1
    assert "PROBLEM   model broken: damaged" in capsys.readouterr().out


def test_an_unwritable_cache_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COGVIEW_HOME", str(tmp_path / "file/folder"))
    assert doctor.cache() == {"path": str(tmp_path / "file/folder"), "writable": False}
    report = {"versions": dict.fromkeys(doctor.NEEDED, "1"), "models": [], "cache": doctor.cache()}
    [no_model, no_cache] = doctor.problems(report)
    assert "no model" in no_model
    assert "set COGVIEW_HOME" in no_cache


def test_a_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-library",))
    report = {"versions": doctor.versions(), "models": [{"name": "m"}], "cache": {"writable": True}}
    assert doctor.problems(report) == ["no-such-library is not installed: pip install no-such-library"]
