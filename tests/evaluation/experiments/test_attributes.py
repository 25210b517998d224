"""The whole experiment with drawers whose faithfulness is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cogview.errors import CogViewError
from cogview.evaluation.experiments.attributes import AttributePlan, AttributeReport, evaluate_attributes
from cogview.evaluation.judges.attribute_corpus import read_avatars, statements
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.evaluation.reports import write_report
from cogview.tokenizers.vqvae import ImageTokenizer, ImageTokenizerConfig
from tests.evaluation.toy import CaptionDrawer

PLAN = AttributePlan(count=20, batch=5, bootstrap=200)


def test_a_faithful_drawer_reaches_the_ceiling(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    report, sets = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path)
    assert set(report.accuracy) == set(sets) == {"real", "zh", "en"}
    real = report.accuracy["real"]
    assert real.overall.value == 1.0
    for language in report.drawn:
        drawn = report.accuracy[language]
        assert drawn.of_ceiling is not None
        assert drawn.overall.value == drawn.of_ceiling.value == drawn.macro.value == 1.0
        assert drawn.floor == real.floor


def test_stated_attributes_are_counted_and_no_other(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    """A blot states colour, shape and its dot if it has one; a flag colour and way; nobody the weight."""
    report, _ = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path)
    known = {avatar.key: avatar for avatar in read_avatars(corpus)}
    values = [known[key].values for key in report.selection.keys]
    flags = sum("way" in v for v in values)
    dots = sum("mark" in v for v in values)
    assert flags == 10
    counts = {name: share.stated for name, share in report.accuracy["zh"].by_attribute.items()}
    expected = {
        "blot/body_color": 10,
        "blot/shape": 10,
        "blot/mark": dots,
        "flag/first_color": 10,
        "flag/way": 10,
    }
    assert counts == expected
    assert report.accuracy["zh"].by_style["flag"].stated == 20


def test_a_drawer_of_wrong_colours_loses_just_the_colours(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    report, _ = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(wrong_colour=True), tmp_path)
    groups = report.accuracy["en"].by_group
    assert groups["colour of a part"].right == 0
    assert groups["other"].value == 1.0
    every = report.accuracy["en"].by_attribute.values()
    colours = groups["colour of a part"].stated
    assert report.accuracy["en"].overall.value == pytest.approx(1 - colours / sum(s.stated for s in every))


def test_the_floor_is_what_a_drawer_of_swapped_prompts_gets(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    """Every cyclic shift within a style is one way of swapping; the floor is the mean over all of them."""
    report, sets = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path)
    known = {avatar.key: avatar for avatar in read_avatars(corpus)}
    chosen = [known[key] for key in report.selection.keys]
    read = reader.read(torch.from_numpy(sets["zh"]).permute(0, 3, 1, 2) / 255, [a.style for a in chosen])
    right = total = 0
    for shift in range(1, 10):
        for style in ("blot", "flag"):
            rows = [i for i, a in enumerate(chosen) if a.style == style]
            for i, row in enumerate(rows):
                said = statements(chosen[row], reader.config.attributes)
                other = read[rows[(i + shift) % len(rows)]]
                right += sum(other[name] == label for name, label in said.items())
                total += len(said)
    assert report.accuracy["zh"].floor == pytest.approx(right / total)


def test_a_stopped_run_goes_on(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    whole, _ = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path / "a")
    stopped = CaptionDrawer(patience=27)
    with pytest.raises(KeyboardInterrupt):
        evaluate_attributes(PLAN, corpus, reader, stopped, tmp_path / "b")
    again = CaptionDrawer()
    resumed, _ = evaluate_attributes(PLAN, corpus, reader, again, tmp_path / "b")
    assert resumed == whole
    assert len(again.drawn) == 40 - 25, "only groups that were not finished are drawn again"
    third = CaptionDrawer()
    evaluate_attributes(PLAN, corpus, reader, third, tmp_path / "b")
    assert third.drawn == []


def test_other_models_settings_and_seeds_share_no_pictures(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    changes: list[dict[str, object]] = [{}, {"sampling": {"temperature": 0.5}}, {"seed": 1}]
    for change in changes:
        drawer = CaptionDrawer()
        evaluate_attributes(PLAN.model_copy(update=change), corpus, reader, drawer, tmp_path)
        assert len(drawer.drawn) == 40
    drawer = CaptionDrawer(wrong_colour=True)
    evaluate_attributes(PLAN, corpus, reader, drawer, tmp_path)
    assert len(drawer.drawn) == 40


def test_reconstructions_are_read_too(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    """An untrained tokenizer paints nothing: its pictures all read alike, near the floor."""
    torch.manual_seed(0)
    config = ImageTokenizerConfig(
        image_size=12, factors=(3, 2), channels=(8, 8), blocks=(1, 1), attention=False, codes=16, code_dim=4
    )
    tokenizer = ImageTokenizer(config).eval()
    report, sets = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path, tokenizer)
    assert sets["reconstructed"].shape == sets["real"].shape == (20, 24, 24, 3)
    assert report.accuracy["reconstructed"].overall.value < 0.8
    assert report.facts["tokenizer_fingerprint"] == tokenizer.fingerprint


def test_a_damaged_picture_is_named(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path)
    broken = next(tmp_path.rglob("000003.png"))
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(CogViewError, match=r"000003\.png: .*delete it"):
        evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path)


def test_the_report_survives_the_disk(corpus: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    report, sets = evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path)
    write_report(report, tmp_path / "deep" / "report.json")
    assert AttributeReport.model_validate_json((tmp_path / "deep" / "report.json").read_bytes()) == report
    assert report.facts["classifier_fingerprint"] == reader.fingerprint
    assert {"torch", "cogview", "python", "corpus_fingerprint", "model_fingerprint"} <= set(report.facts)
    assert all(np.array_equal(sets["zh"][i], sets["en"][i]) for i in range(20)), (
        "one combination, two languages"
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(CogViewError, match="cannot be written"):
        write_report(report, tmp_path / "file" / "report.json")
    with pytest.raises(CogViewError, match=r"cannot be written .*choose another --work"):
        evaluate_attributes(PLAN, corpus, reader, CaptionDrawer(), tmp_path / "file")
