"""Best of 1, 2 and 4 candidates of which some show the wrong colour, ranked by a loss that knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.errors import CogViewError
from cogview.evaluation.best_of import BestOfPlan, BestOfReport, evaluate_best_of
from cogview.evaluation.classifier import AttributeReader
from tests.evaluation.toy import CaptionDrawer

PLAN = BestOfPlan(count=12, sizes=(1, 2, 4), bootstrap=50)


@dataclass
class Guessing:
    """The first candidate has the wrong colour, later ones at every second prompt too but for the last."""

    honest: bool = True
    patience: int = 1_000
    name: str = "guessing"
    fingerprint: str = "0"
    drawn: list[str] = field(default_factory=list)

    def candidates(
        self, prompt: str, n: int, seed: int, sampling: Mapping[str, int | float | str]
    ) -> tuple[list[Image.Image], list[float]]:
        if len(self.drawn) == self.patience:
            raise KeyboardInterrupt
        self.drawn.append(prompt)
        wrong = [i == 0 or (seed % 2 == 1 and i < n - 1) for i in range(n)]
        pictures = [CaptionDrawer(wrong_colour=bad).draw([prompt], 0, {})[0] for bad in wrong]
        return pictures, [float(bad == self.honest) for bad in wrong]


def test_accuracy_rises_with_the_candidates(corpus: Path, reader: AttributeReader, tmp_path: Path) -> None:
    report, sets = evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path)
    assert set(sets) == {"real"} | {f"{lang} best of {k}" for lang in ("zh", "en") for k in (1, 2, 4)}
    for language in ("zh", "en"):
        colours = [
            report.accuracy[f"{language} best of {size}"].by_group["colour of a part"] for size in (1, 2, 4)
        ]
        assert [share.right for share in colours] == [0, 6, 12]
        assert [report.losses[f"{language} best of {size}"] for size in (1, 2, 4)] == [1.0, 0.5, 0.0]
    assert BestOfReport.model_validate_json(report.model_dump_json()) == report


def test_a_ranking_that_lies_does_not_help(corpus: Path, reader: AttributeReader, tmp_path: Path) -> None:
    report, _ = evaluate_best_of(PLAN, corpus, reader, Guessing(honest=False), tmp_path)
    assert report.accuracy["en best of 4"].by_group["colour of a part"].right == 0


def test_a_stopped_run_goes_on(corpus: Path, reader: AttributeReader, tmp_path: Path) -> None:
    """What was drawn is not drawn again, and the result is that of a run in one piece."""
    whole, pictures = evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path / "whole")
    first, second = Guessing(patience=9), Guessing()
    with pytest.raises(KeyboardInterrupt):
        evaluate_best_of(PLAN, corpus, reader, first, tmp_path / "parts")
    again, same = evaluate_best_of(PLAN, corpus, reader, second, tmp_path / "parts")
    assert len(first.drawn) == 9 and len(second.drawn) == 24 - 9
    assert again == whole and all(np.array_equal(pictures[name], same[name]) for name in pictures)
    [told] = (tmp_path / "parts").glob("best-of-*/en/00003.json")
    told.write_text("[1]")
    with pytest.raises(CogViewError, match="damaged; delete it"):
        evaluate_best_of(PLAN, corpus, reader, Guessing(), tmp_path / "parts")
