"""What copying the nearest training picture scores: the trivial floor of attribute accuracy."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.experiments.attributes import AttributeReport
from cogview.evaluation.experiments.nearest import RetrievalBaseline
from cogview.evaluation.judges.classifier import AttributeClassifier
from tests.evaluation import toy
from tests.generation import tiny


def test_copying_is_below_the_ceiling(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    """Held-out pairs are in no training picture, so a copy has one of the two wrong at least."""
    reader.save(tmp_path / "reader")
    out = tmp_path / "report.json"
    line = ["eval", "attributes", "--model", "nearest-training", "--corpus", str(corpus), "-n", "8"]
    line += ["--classifier", str(tmp_path / "reader"), "--work", str(tmp_path / "work"), "--out", str(out)]
    assert main(line) == 0
    report = AttributeReport.model_validate_json(out.read_bytes())
    assert set(report.accuracy) == {"real", "zh", "en"} and report.facts["model"] == "nearest-training"
    for language in ("zh", "en"):
        assert report.accuracy[language].overall.value < report.accuracy["real"].overall.value


def test_it_draws_the_same_whatever_the_seed(corpus: Path) -> None:
    drawer = RetrievalBaseline(corpus, tiny.text_tokenizer(), source="dice")
    first, second = (drawer.generate(["red circle", "蓝色的方块"], seed, {}) for seed in (0, 1))
    assert [p.tobytes() for p in first] == [p.tobytes() for p in second]
    again = RetrievalBaseline(corpus, tiny.text_tokenizer(), source="dice")
    assert again.fingerprint == drawer.fingerprint and drawer.name == "nearest-training"


def test_nothing_to_choose_from_is_one_line(tmp_path: Path) -> None:
    rows = [row for row in toy.rows(40) if row["split"] != "train"]
    with pytest.raises(CogViewError, match="no captioned image of split 'train' to choose from"):
        RetrievalBaseline(toy.write(tmp_path, rows), tiny.text_tokenizer())
