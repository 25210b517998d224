"""Best of 1, 2 and 4 candidates of which some show the wrong colour, ranked by a loss that knows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.experiments.best_of import BestOfPlan, BestOfReport, evaluate_best_of, panels
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.metrics.accuracy import Figure
from cogview.reports.plots import plot_curves
from tests.evaluation.toy import COLOURS, RGB, Guessing

PLAN = BestOfPlan(count=12, sizes=(1, 2, 4), bootstrap=50)


def test_accuracy_rises_with_the_candidates(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    report, sets = evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path)
    assert set(sets) == {"real"} | {f"{lang} best of {k}" for lang in ("zh", "en") for k in (1, 2, 4)}
    for language in ("zh", "en"):
        colours = [
            report.accuracy[f"{language} best of {size}"].by_group["colour of a part"] for size in (1, 2, 4)
        ]
        assert [share.right for share in colours] == [0, 6, 12]
        assert [report.losses[f"{language} best of {size}"] for size in (1, 2, 4)] == [1.0, 0.5, 0.0]
    assert BestOfReport.model_validate_json(report.model_dump_json()) == report


def test_a_ranking_that_lies_does_not_help(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    report, _ = evaluate_best_of(PLAN, corpus, reader, Guessing(honest=False), tmp_path)
    assert report.accuracy["en best of 4"].by_group["colour of a part"].right == 0


def test_a_stopped_run_goes_on(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    """What was drawn is not drawn again, and the result is that of a run in one piece."""
    whole, pictures = evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path / "whole")
    first, second = Guessing(patience=9), Guessing()
    with pytest.raises(KeyboardInterrupt):
        evaluate_best_of(PLAN, corpus, reader, first, tmp_path / "parts")
    again, same = evaluate_best_of(PLAN, corpus, reader, second, tmp_path / "parts")
    assert len(first.drawn) == 9 and len(second.drawn) == 24 - 9
    assert again == whole and all(np.array_equal(pictures[name], same[name]) for name in pictures)
    told = next((tmp_path / "parts").glob("best-of-*/000003.json"))
    told.write_text("[1]")
    with pytest.raises(CogViewError, match="damaged; delete it"):
        evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path / "parts")


class Colours:
    """Ranks as an alignment scorer does, by vectors: a picture's mean ink, a text's named colour."""

    config = SimpleNamespace(preprocessing=Preprocessing(size=16, resample="box"))
    fingerprint = "colours"

    def encode_image(self, pictures: np.ndarray) -> np.ndarray:
        ink = (255.0 - pictures).mean((1, 2))
        return ink / np.linalg.norm(ink, axis=1, keepdims=True)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        named = [next(en for en, zh in COLOURS.items() if en in text or zh in text) for text in texts]
        ink = 255.0 - np.array([RGB[name] for name in named])
        return ink / np.linalg.norm(ink, axis=1, keepdims=True)


def test_an_alignment_scorer_ranks_beside_the_loss(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    """Where the caption loss lies, the scorer finds the right colour; the curve of both starts together."""
    judge: Any = Colours()
    drawer = Guessing(honest=False)
    report, sets = evaluate_best_of(PLAN, corpus, reader, drawer, tmp_path, alignment=judge)
    colour = {name: own.by_group["colour of a part"].right for name, own in report.accuracy.items()}
    assert [colour[f"en best of {k}"] for k in (1, 2, 4)] == [0, 0, 0]
    assert [colour[f"en best of {k} by alignment"] for k in (2, 4)] == [6, 12]
    assert "en best of 1 by alignment" not in sets and report.facts["scorer_fingerprint"] == "colours"
    [(metric, found)] = panels(report).items()
    assert metric == "attribute accuracy"
    assert list(found) == ["zh", "zh by alignment", "en", "en by alignment"]
    assert [size for size, _ in found["en by alignment"]] == [1, 2, 4]
    assert found["en by alignment"][0] == found["en"][0]
    again = Guessing(honest=False, patience=0)
    assert evaluate_best_of(PLAN, corpus, reader, again, tmp_path, alignment=judge)[0] == report


def test_the_panels_of_figure_9(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    report, _ = evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path)
    fid = {"en best of 1": {"FID-0": 3.0}, "zh best of 1": {"FID-0": 4.0}, "en best of 4": {"FID-0": 2.0}}
    found = panels(report.model_copy(update={"distributions": fid}))
    assert list(found) == ["attribute accuracy", "FID-0"]
    values = {label: [(size, figure.value) for size, figure in own] for label, own in found["FID-0"].items()}
    assert values == {"en": [(1, 3.0), (4, 2.0)], "zh": [(1, 4.0)]}


def test_the_curve_is_plotted(tmp_path: Path) -> None:
    points = [(size, Figure(value=1 - 1 / (size + 1), low=0.2, high=1.0)) for size in (1, 4, 16)]
    curves = {"zh": points, "en by alignment": points}
    plot_curves({"right": curves, "FID": curves}, "candidates", tmp_path / "a" / "x.svg")
    text = (tmp_path / "a" / "x.svg").read_text()
    assert "en by alignment" in text or text.count("<use") > 6  # labels may be drawn as paths
    assert 'id="axes_1"' in text and 'id="axes_2"' in text and 'id="axes_3"' not in text
    with pytest.raises(CogViewError, match="cannot be written"):
        plot_curves({"y": {"zh": points}}, "x", tmp_path / "x.unknown")
