"""``cogview eval`` as it is typed: reports, sheets, and one clear line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from cogview.cli.eval import evaluate
from cogview.cli.output import show
from cogview.errors import CogViewError
from cogview.evaluation import report_tables as tables
from cogview.evaluation.experiments.attributes import AttributePlan, evaluate_attributes
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.reconstruction import ReconstructionReport
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from tests.evaluation.toy import CaptionDrawer


def run(*arguments: object) -> Result:
    return CliRunner().invoke(evaluate, [str(argument) for argument in arguments])


def failure(*arguments: object) -> str:
    """The user's error that a command ends with."""
    error = run(*arguments).exception
    assert isinstance(error, CogViewError), error
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        image_size=12, factors=(3, 2), channels=(8, 8), blocks=(1, 1), attention=False, codes=16, code_dim=4
    )
    directory = tmp_path_factory.mktemp("tokenizer")
    ImageTokenizer(config).save(directory)
    return directory


def test_tokenizer_report_table_and_sheet(corpus: Path, tokenizer: Path, tmp_path: Path) -> None:
    report, sheet = tmp_path / "deep" / "report.json", tmp_path / "sheet.png"
    where = ("--tokenizer", tokenizer, "--data", corpus, "--limit", 9)
    result = run("tokenizer", *where, "--split", "train", "--out", report, "--sheet", sheet, "--columns", 3)
    assert result.exit_code == 0, result.output
    found = ReconstructionReport.model_validate_json(report.read_bytes())
    assert found.overall.pictures == 9 and found.facts["split"] == "train" and found.codebook.codes == 16
    assert f"{found.overall.psnr:.2f} dB" in result.output
    assert f"{found.codebook.used} of 16 codes" in result.output
    with Image.open(sheet) as picture:
        assert picture.width == 3 * (12 + 2) + 2
    printed = run("tokenizer", *where, "--split", "train", "--json")
    assert json.loads(printed.stdout) == json.loads(report.read_text())


def test_classifier_is_trained_once(corpus: Path, tmp_path: Path) -> None:
    settings = ("--corpus", corpus, "--out", tmp_path, "--size", 24, "--batch", 16, "--rare", 8)
    result = run("train-classifier", *settings, "--epochs", 0.2)
    assert result.exit_code == 0, result.output
    assert "5 attributes of 2 styles" in result.output
    first = AttributeClassifier.from_directory(tmp_path).fingerprint
    weights = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert "up to date" in run("train-classifier", *settings, "--epochs", 0.2).output
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == weights
    assert "up to date" not in run("train-classifier", *settings, "--epochs", 0.3).output
    assert AttributeClassifier.from_directory(tmp_path).fingerprint != first


def test_mistakes_are_one_line(
    corpus: Path,
    reader: AttributeClassifier,
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COGVIEW_HOME", str(tmp_path / "home"))
    reader.save(tmp_path / "reader")
    known = ("attributes", "--corpus", corpus, "--model")
    assert "no classifier here" in failure(*known, "pictogram", "--classifier", tmp_path)
    assert "no model 'nothing'" in failure(*known, "nothing", "--classifier", tmp_path / "reader")
    assert "no Parquet file" in failure("train-classifier", "--corpus", tmp_path, "--out", tmp_path / "x")
    wrong = ("train-classifier", "--corpus", corpus, "--out", tmp_path / "x", "--rate", "-1")
    assert "rate: " in failure(*wrong)
    judged = ("tokenizer", "--tokenizer", tokenizer, "--data", corpus)
    assert "no readable image of split 'best'" in failure(*judged, "--split", "best")
    assert "resample" in failure(*judged, "--resample", "magic")
    assert "none.safetensors: cannot be read" in failure(*judged, "--lpips", tmp_path / "none.safetensors")
    assert "config.json" in failure("tokenizer", "--tokenizer", tmp_path, "--data", corpus)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in failure(*judged, "--limit", 2, "--out", tmp_path / "file" / "a.json")
    assert "cannot be written" in failure(*judged, "--limit", 2, "--sheet", tmp_path / "file" / "a.png")


def test_the_table_says_what_the_report_says(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = AttributePlan(count=20, bootstrap=100)
    report, _ = evaluate_attributes(plan, corpus, reader, CaptionDrawer(wrong_colour=True), tmp_path)
    show(*tables.attributes(report))
    lines = [line.replace("│", "|").split("|") for line in capsys.readouterr().out.splitlines()]
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in lines if len(cells) > 2}
    chinese = report.accuracy["zh"]
    assert rows["zh"][0].startswith(f"{100 * chinese.overall.value:.1f} ±")
    assert rows["zh"][-1] == f"{100 * (chinese.floor or 0):.1f}"
    assert rows["colour of a part"] == ["20", "100.0", "0.0", "0.0"]
    assert rows["flag"] == ["20", "100.0", "50.0", "50.0"]
