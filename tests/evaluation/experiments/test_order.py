"""Pictures in the order of their caption loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from cogview import CogView
from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.experiments.order import OrderReport, order_sheet, rank_images, spearman
from tests.generation import tiny


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("family"), captioning=True)


def test_the_order_is_that_of_the_losses(family: Path) -> None:
    model = CogView.from_pretrained(family)
    report, images = rank_images(model, "a red circle", n=7, seed=3, sampling={"top_k": 9})
    pictures = model.generate("a red circle", n=7, seed=3, top_k=9)
    losses = model.score(pictures, "a red circle")[:, 0]
    assert [placed.index for placed in report.order] == np.argsort(losses, kind="stable").tolist()
    assert [placed.loss for placed in report.order] == pytest.approx(sorted(losses))
    assert images[0].tobytes() == pictures[report.order[0].index].image.tobytes()
    assert report.facts["top_k"] == 9 and report.facts["model_hash"] == model.model_hash
    sheet = order_sheet(report, images, columns=4)
    side = 80  # 16 pixels, enlarged by 5
    assert sheet.size == (4 * (side + 4) + 4, 2 * (side + 4 + 14) + 4)
    tile = sheet.crop((4, 4, 4 + side, 4 + side)).resize((16, 16), Image.Resampling.NEAREST)
    assert tile.tobytes() == images[0].tobytes()


@pytest.mark.parametrize("ties", [False, True])
def test_agreement_is_spearmans(ties: bool) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 40))
    if ties:
        a, b = a.round(), b.round()
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.zeros(40)) is None


def test_the_command_writes_sheet_and_report(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet, out = tmp_path / "new" / "order.png", tmp_path / "order.json"
    words = ["eval", "order", "a red circle", "--model", str(family), "-n", "3", "--sheet", str(sheet)]
    words += ["--work", str(tmp_path / "work")]
    assert main([*words, "--out", str(out)]) == 0
    report = OrderReport.model_validate_json(out.read_text())
    assert f"{report.order[0].loss:.3f} to {report.order[-1].loss:.3f}" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.png")}
    assert len(kept) == 3 and main([*words, "--out", str(out)]) == 0  # nothing is generated again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.png")} == kept
    assert OrderReport.model_validate_json(out.read_text()) == report
    assert sheet.is_file() and main(["report", str(out), "-o", str(tmp_path / "page.html")]) == 0
    assert "order by caption loss" in (tmp_path / "page.html").read_text()


def test_a_family_without_a_caption_role_is_refused(tmp_path: Path) -> None:
    model = CogView.from_pretrained(tiny.write(tmp_path / "plain"))
    with pytest.raises(CogViewError, match="caption"):
        rank_images(model, "a red circle", n=2)
