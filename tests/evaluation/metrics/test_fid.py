"""FID, KID and IS against the formulas, and reports that stop, go on, share work and refuse to be mixed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import linalg

from cogview.checkpoints.provenance import Provenance, save_png
from cogview.errors import CogViewError
from cogview.evaluation.experiments.alignment import (
    Alignment,
    AlignmentManifest,
    AlignmentPlan,
    AlignmentReport,
)
from cogview.evaluation.metrics import fid as module
from cogview.evaluation.metrics.accuracy import Figure
from cogview.evaluation.metrics.comparison import difference, figures, read_report, read_reports
from cogview.evaluation.metrics.fid import (
    DistributionPlan,
    Value,
    compare_pictures,
    fid,
    inception_score,
    kid,
)
from cogview.evaluation.metrics.image_sets import Shape, open_set
from cogview.evaluation.reports import write_report
from tests.evaluation.toy import Thumbnail


@pytest.fixture
def folders(rng: np.random.Generator, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of ten pictures; the second says what made it."""
    for name, low in (("real", 0), ("drawn", 90)):
        (tmp_path / name).mkdir()
        for i in range(10):
            image = Image.fromarray(rng.integers(low, 255, (20, 24, 3), dtype=np.uint8))
            facts = Provenance(software="t", prompt=f"p{i}", seed=1, model="m", model_hash="h")
            if name == "drawn":
                save_png(image, tmp_path / name / f"{i}.png", facts)
            else:
                image.save(tmp_path / name / f"{i}.png")
    return tmp_path / "real", tmp_path / "drawn"


def test_fid_is_the_frechet_distance_of_the_two_gaussians(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(300, 5)), rng.normal(0.5, 2, size=(200, 5)) @ rng.normal(size=(5, 5))
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(s @ t).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root)
    assert fid(a, b) == pytest.approx(expected, rel=1e-9)
    assert fid(a, a) == pytest.approx(0, abs=1e-8)


def test_kid_is_the_unbiased_squared_mmd(rng: np.random.Generator) -> None:
    a, b, n = rng.normal(size=(12, 3)), rng.normal(0.3, 1, size=(12, 3)), 12

    def kernel(x: Any, y: Any) -> Any:
        return (x @ y / 3 + 1) ** 3

    within = [
        sum(kernel(s[i], s[j]) for i in range(n) for j in range(n) if i != j) / n / (n - 1) for s in (a, b)
    ]
    across = sum(kernel(x, y) for x in a for y in b) / n**2
    found = kid(a, b, DistributionPlan(subsets=3, subset_size=50))
    assert found.value == pytest.approx(sum(within) - 2 * across, rel=1e-9)
    assert found.spread == pytest.approx(0, abs=1e-12)  # every subset is the whole


def test_the_inception_score_counts_certain_classes() -> None:
    plan = DistributionPlan(splits=1)
    assert inception_score(np.eye(7), plan).value == pytest.approx(7, rel=1e-6)
    assert inception_score(np.full((9, 7), 1 / 7), plan).value == pytest.approx(1, rel=1e-9)


def test_a_stopped_run_goes_on_and_shares_give_the_same(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    sets = [open_set(folder) for folder in folders]
    plan = DistributionPlan(metrics=("fid", "kid", "is"), blurs=(0, 2), canvas=16, subsets=4, subset_size=5)
    whole = compare_pictures(sets[0], sets[1], plan, Thumbnail(), tmp_path / "whole")
    assert whole is not None and set(whole.figures) == {
        f"Thumbnail-{name}" for name in ("FID-0", "KID-0", "FID-2", "KID-2", "IS", "IS of the reference")
    }
    first, second = Thumbnail(), Thumbnail()
    assert compare_pictures(sets[0], sets[1], plan, first, tmp_path / "shared", part=(0, 2)) is None
    shared = compare_pictures(sets[0], sets[1], plan, second, tmp_path / "shared", part=(1, 2))
    assert shared == whole
    assert (first.seen, second.seen) == (24, 16)  # chunks 0 and 2 of four in each of four descriptions
    again = Thumbnail()
    assert compare_pictures(sets[0], sets[1], plan, again, tmp_path / "shared") == whole and not again.seen


def test_the_manifest_tells_what_was_drawn(folders: tuple[Path, Path], tmp_path: Path) -> None:
    report = compare_pictures(
        open_set(folders[0]), open_set(folders[1]), DistributionPlan(), Thumbnail(), tmp_path / "work"
    )
    assert report is not None
    assert report.drawn.models == ("m h",) and report.drawn.seeds == (1,)
    assert report.manifest.prompts and report.manifest.reference.prompts is None
    assert report.manifest.drawn_count == 10


def test_unequal_manifests_are_not_compared(folders: tuple[Path, Path], tmp_path: Path) -> None:
    real, drawn = (open_set(folder) for folder in folders)
    for name, plan in (("a", DistributionPlan()), ("b", DistributionPlan(canvas=64))):
        report = compare_pictures(real, drawn, plan, Thumbnail(), tmp_path / "work")
        assert report is not None
        write_report(report, tmp_path / f"{name}.json")
    with pytest.raises(CogViewError, match=r"plan\.canvas is 64 in the one and 256 in the other"):
        read_reports([tmp_path / "a.json", tmp_path / "b.json"])
    assert len(read_reports([tmp_path / "a.json"])) == 1


def test_the_place_of_a_set_may_differ() -> None:
    a, b = (
        {"reference": {"where": "x", "count": 1}, "z": 1},
        {"reference": {"where": "y", "count": 1}, "z": 2},
    )
    assert difference(a, b) == "z is 2 in the one and 1 in the other"


def test_blur_smooths_and_shape_is_square(rng: np.random.Generator) -> None:
    noise = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    sharp, soft = (Shape(32, 16, blur).array(noise).astype(float) for blur in (0, 4))
    assert sharp.shape == (16, 16, 3) and soft.std() < sharp.std() / 3


def test_sets_that_cannot_be_measured(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="no such folder"):
        open_set(tmp_path / "nowhere")
    with pytest.raises(CogViewError, match="10 images there, not 11"):
        open_set(folders[0], count=11)
    (folders[0] / "5.png").write_bytes(b"broken")
    with pytest.raises(CogViewError, match=r"5\.png' is broken"):
        compare_pictures(
            open_set(folders[0]), open_set(folders[1]), DistributionPlan(), Thumbnail(), tmp_path / "w"
        )
    one = open_set(folders[1], count=1)
    with pytest.raises(CogViewError, match="needs 2 or more"):
        compare_pictures(one, one, DistributionPlan(), Thumbnail(), tmp_path / "w")


def test_drawn_pictures_of_several_sizes_are_refused_and_real_ones_are_not(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    Image.new("RGB", (30, 20)).save(folders[0] / "wide.png")
    plan = DistributionPlan(canvas=16, subsets=2, subset_size=4, bootstrap=0)
    mixed, drawn = open_set(folders[0]), open_set(folders[1])
    report = compare_pictures(mixed, drawn, plan, Thumbnail(), tmp_path / "w")
    assert report is not None and report.manifest.reference.sizes == ("24 x 20", "30 x 20")
    with pytest.raises(CogViewError, match=r"several sizes \(24 x 20, 30 x 20\)"):
        compare_pictures(drawn, mixed, plan, Thumbnail(), tmp_path / "w")
    assert compare_pictures(drawn, mixed, plan, Thumbnail(), tmp_path / "w", any_size=True) is not None


def test_reports_of_different_kinds_are_not_compared(folders: tuple[Path, Path], tmp_path: Path) -> None:
    sets = [open_set(folder) for folder in folders]
    report = compare_pictures(sets[0], sets[1], DistributionPlan(bootstrap=0), Thumbnail(), tmp_path / "w")
    assert report is not None
    write_report(report, tmp_path / "a.json")
    figure = Figure(value=0.5, low=0.4, high=0.6)
    own = Alignment(
        pictures=2, choices=2, r_precision=figure, text_recall={1: figure}, picture_recall={}, cosine=figure
    )
    manifest = AlignmentManifest(plan=AlignmentPlan(), scorer="s", texts={}, versions={})
    other = AlignmentReport(manifest=manifest, sets={"real zh": own}, facts={})
    write_report(other, tmp_path / "b.json")
    with pytest.raises(CogViewError, match="different kinds"):
        read_reports([tmp_path / "a.json", tmp_path / "b.json"])
    found = figures(read_report(tmp_path / "b.json"))
    assert found["real zh: text@1"] == Value(value=0.5, low=0.4, high=0.6) and len(found) == 3
