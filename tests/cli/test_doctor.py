"""``cogview doctor``: its report against what this machine says elsewhere."""

import importlib.metadata
import json
import os
import shutil
from pathlib import Path

import pytest

from cogview import __version__, diagnosis
from cogview.checkpoints.provenance import model_hash
from cogview.cli.app import main
from cogview.tokenizers.text import TextTokenizer
from cogview.tokenizers.vqvae import ImageTokenizer
from tests.generation import tiny


def make_model(root: Path, family: str) -> None:
    root.mkdir(parents=True)
    (root / "family.json").write_text(family, encoding="utf-8")
    (root / "model.safetensors").write_bytes(b"x" * 100)


@pytest.fixture
def mine(home: Path, tmp_path: Path) -> Path:
    """A whole tiny family among the user's models."""
    return Path(shutil.copytree(tiny.write(tmp_path), home / "models/mine"))


def test_the_report(home: Path, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == (1 if report["problems"] else 0)
    assert report["versions"]["cogview"] == __version__
    assert report["versions"]["torch"] == importlib.metadata.version("torch")
    assert 1 <= report["device"]["cores"] <= (os.cpu_count() or 1)
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if "avx2" in flags and "ONEDNN_MAX_CPU_ISA" not in os.environ:  # an x86 processor, all of it in use
        assert report["device"]["bf16"] == bool(flags & {"avx512_bf16", "amx_bf16"})
    assert (report["device"]["bf16_gain"] > 0) == report["device"]["bf16"]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert report["memory"]["total"] == pytest.approx(pages, rel=0.05)
    assert 0 < report["memory"]["available"] <= report["memory"]["total"]
    assert report["cache"] == {"path": str(home), "writable": True}
    [found] = [model for model in report["models"] if model["path"] == str(mine)]
    size = sum(path.stat().st_size for path in mine.rglob("*.*") if path.is_file())
    assert (found["name"], found["bytes"]) == ("tiny", size)
    assert found["hash"] == model_hash(mine) and "error" not in found


def test_the_lines_say_the_same(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    text = capsys.readouterr().out
    assert f" MB, {model_hash(mine)[:12]}, {mine}\n" in text and "model     tiny: " in text
    assert f"torch {importlib.metadata.version('torch')}" in text


def test_the_threads_and_their_reason_are_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    main(["doctor"])
    assert "threads   3 (OMP_NUM_THREADS is set); --threads changes it\n" in capsys.readouterr().out
    monkeypatch.delenv("OMP_NUM_THREADS")
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)["device"]
    assert 1 <= found["threads"] <= found["cores"]
    assert found["threads_reason"].startswith(f"{found['cores']} core")


def test_a_foreign_tokenizer_is_a_problem(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It loads, and would draw wrong pictures."""
    TextTokenizer.train(["a red circle", "a blue square"] * 20, pieces=270).save(mine / "text.model")
    assert main(["doctor"]) == 1
    assert "PROBLEM   model tiny: damaged: " in (said := capsys.readouterr().out)
    assert "text.model is not the tokenizer this family was trained with" in said


def test_another_image_tokenizer_is_a_problem(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ImageTokenizer.from_directory(mine / "image_tokenizer").config
    ImageTokenizer(config).save(mine / "image_tokenizer")
    assert main(["doctor"]) == 1
    assert "image_tokenizer is not the tokenizer this family was trained with" in capsys.readouterr().out


def test_weights_that_do_not_fit_are_a_problem(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.transformer(vocab_size=256).save(mine / "base")
    assert main(["doctor"]) == 1
    assert "too few for family.json" in capsys.readouterr().out


@pytest.mark.parametrize("family", ["{", "[]", "{}", '{"nam": 1}'])
def test_a_damaged_model_is_a_problem(home: Path, capsys: pytest.CaptureFixture[str], family: str) -> None:
    make_model(home / "models/broken", family)
    assert main(["doctor"]) == 1
    assert "PROBLEM   model broken: damaged" in capsys.readouterr().out


def test_an_unwritable_cache_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COGVIEW_HOME", str(tmp_path / "file/folder"))
    assert diagnosis.cache() == {"path": str(tmp_path / "file/folder"), "writable": False}
    report = {"versions": dict.fromkeys(diagnosis.NEEDED, "1"), "models": [], "cache": diagnosis.cache()}
    [no_model, no_cache] = diagnosis.problems(report)
    assert "no model" in no_model
    assert "set COGVIEW_HOME" in no_cache


def test_a_missing_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "NEEDED", ("no-such-library",))
    report = {"versions": diagnosis.versions(), "models": [{"name": "m"}], "cache": {"writable": True}}
    assert diagnosis.problems(report) == ["no-such-library is not installed: pip install no-such-library"]
