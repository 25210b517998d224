"""The page of ``cogview report``: everything is on it, nothing comes from outside, and it keeps its limit."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.cli.app import main
from cogview.evaluation.experiments.attributes import AttributePlan, evaluate_attributes
from cogview.evaluation.experiments.best_of import BestOfPlan, evaluate_best_of
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.report_page import build
from cogview.evaluation.reports import write_report
from cogview.training.metrics_file import MetricsFile
from tests.evaluation.toy import CaptionDrawer, Guessing

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Tags that close each other, the addresses that are loaded, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.loaded += [value for name in ("src", "href") if (value := given.get(name)) is not None]
        if tag not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def noise(path: Path, side: int) -> Path:
    """A picture that PNG cannot compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A training run of 1,000 lines with two sheets of samples."""
    folder = tmp_path / "runs" / "base & <b>"
    for step in (0, 500, 1000):
        noise(folder / "samples" / f"step-{step:06d}.png", 96)
    metrics = MetricsFile(folder / "metrics.jsonl")
    lines = [{"kind": "train", "step": i, "loss": 2 - i / 1000, "text_loss": math.nan} for i in range(1000)]
    text = "".join(json.dumps(line | {"text_loss": None}) + "\n" for line in lines)
    metrics.path.write_text(text)
    for step, loss in ((500, 1.25), (900, 1.5)):
        metrics.append("evaluate", step, {"loss": loss})
    (folder / "recipe.yaml").write_text("task: transformer\nname: <script>alert(1)</script>\n")
    return folder


def test_a_run_has_its_curves_samples_figures_and_recipe(run: Path, tmp_path: Path) -> None:
    text = build([run], "a title & more", 1_000_000)
    found = Checker(text)
    assert "run base & <b>" in found.text and "a title & more" in found.text
    assert "1.2500 at step 500" in found.text and "task: transformer" in found.text
    assert [
        name for name in ("step-000000.png", "step-000500.png", "step-001000.png") if name in found.text
    ] == [
        "step-000000.png",
        "step-001000.png",
    ]
    assert "loss, validation" in found.text and len(text) < 200_000
    assert "script" not in found.tags and all(url.startswith(("data:image/", "#")) for url in found.loaded)


def test_reports_of_every_kind_become_plots_and_tables(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    attributes, _ = evaluate_attributes(
        AttributePlan(count=12, bootstrap=20), corpus, reader, CaptionDrawer(), tmp_path / "work"
    )
    best_of, _ = evaluate_best_of(
        BestOfPlan(count=8, sizes=(1, 2, 4), bootstrap=20), corpus, reader, Guessing(), tmp_path / "work"
    )
    write_report(attributes, tmp_path / "reports" / "a.json")
    write_report(best_of, tmp_path / "reports" / "b.json")
    (tmp_path / "reports" / "speed.json").write_text(
        json.dumps(
            {"machine": {"cores": 2}, "steps": [{"way": "fp32", "ms": 6.106017}, {"way": "<int8>", "ms": 4}]}
        )
    )
    noise(tmp_path / "reports" / "sheet.png", 40)
    found = Checker(build([tmp_path / "reports"], "all", 2_000_000))
    for text in ("attributes: a", "best of several: b", "speed", "sheet.png", "6.106", "<int8>"):
        assert text in found.text, text
    assert attributes.facts["classifier_fingerprint"] in found.text
    assert found.tags.count("svg") == 1 + 2
    assert f"{best_of.losses['en best of 4']:.4g}" in found.text


def test_the_shipped_results_are_read(tmp_path: Path) -> None:
    """Reports of the repository as they are, those of older versions included."""
    results = Path(__file__).parents[2] / "benchmarks" / "results"
    found = Checker(build([results], "results", 3_000_000))
    assert (
        "attributes: pictogram_attributes" in found.text
        and "image tokenizer: pictogram_tokenizer" in found.text
    )


@pytest.mark.parametrize("limit", [60_000, 200_000])
def test_the_page_keeps_its_limit(run: Path, tmp_path: Path, limit: int) -> None:
    pictures = [noise(tmp_path / f"{i}.png", 300 + i) for i in range(4)]
    text = build([run, *pictures], "small", limit)
    assert limit / 4 < len(text.encode()) <= limit
    assert len(re.findall("<img", text)) == 2 + 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "give the folder of a run"),
        ("a.png", "x", "cannot be read as an image"),
        ("a.json", "{", "not valid JSON"),
        ("missing", None, "no such file"),
        ("empty/", None, "contains no run, model, report or image"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    name: str, content: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("/"):
        (tmp_path / name).mkdir()
    elif content is not None:
        (tmp_path / name).write_text(content)
    assert main(["report", str(tmp_path / name), "-o", str(tmp_path / "report.html")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "report.html").exists()


def test_the_command_writes_one_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "report.html"
    assert main(["report", str(run.parent), "-o", str(out), "--title", "mine"]) == 0
    assert str(out) in capsys.readouterr().out and [path.name for path in out.parent.iterdir()] == [
        "report.html"
    ]
    assert "<title>mine</title>" in out.read_text(encoding="utf-8")
