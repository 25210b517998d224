"""The audit on a drawer whose preferences are known: proportions, intervals, what words change."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from cogview.cli.app import main
from cogview.config import validate
from cogview.errors import CogViewError
from cogview.evaluation.experiments.audit import (
    AS_ASKED,
    STATED,
    TRAINING,
    WITH_WORDS,
    Audit,
    AuditPlan,
    FairnessReport,
    Sampling,
    chance_distance,
    distance,
    evaluate_fairness,
    read_audit,
    wilson,
)
from cogview.evaluation.judges.classifier import AttributeClassifier
from cogview.generation.fairness import FairnessTable, replace_words
from tests.evaluation.toy import COLOURS, CaptionDrawer
from tests.generation import tiny

RECIPES = Path(__file__).parents[3] / "recipes" / "fairness"
PLAN = AuditPlan(count=60, seed=3, batch=8)
TABLE = validate(
    FairnessTable,
    {
        "people": {"en": ["circle"], "zh": ["圆形"]},
        "qualities": {
            "body_color": {
                en: {"share": 1, "words": {"en": en, "zh": f"{zh}的"}} for en, zh in list(COLOURS.items())[:4]
            }
        },
    },
    "table",
)
AUDIT = validate(
    Audit,
    {
        "sets": {
            "blots": {
                "style": "blot",
                "attribute": "body_color",
                "prompts": ["circle", "圆形"],
                "stated": {"red": ["red circle"], "blue": ["blue circle"]},
            }
        }
    },
    "audit",
)


@dataclass
class Partial:
    """Draws what a prompt says; where it names no colour, four of five times grey, else green."""

    patience: int = 1_000
    name: str = "partial"
    fingerprint: str = "0"
    precision: str = "fp32"
    drawn: list[str] = field(default_factory=list)

    def series(
        self, prompt: str, n: int, first: int, seed: int, sampling: Sampling, table: FairnessTable | None
    ) -> list[Image.Image]:
        texts = []
        for index in range(first, first + n):
            if len(self.drawn) == self.patience:
                raise KeyboardInterrupt
            text = prompt if table is None else replace_words(prompt, table, seed, index).text
            named = any(en in text or zh in text for en, zh in COLOURS.items())
            chance = random.Random(f"{prompt} {seed} {index}").random()
            texts.append(text if named else f"{'grey' if chance < 0.8 else 'green'} {text}")
            self.drawn.append(prompt)
        return CaptionDrawer().generate(texts, 0, {})


def audit(
    reader: AttributeClassifier,
    work: Path,
    drawer: Partial,
    corpus: Path | None = None,
    plan: AuditPlan = PLAN,
) -> FairnessReport:
    return evaluate_fairness(AUDIT, {"blots": TABLE}, plan, reader, drawer, work, corpus)


def test_preferences_are_found_and_words_even_them_out(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    report = audit(reader, tmp_path, Partial(), corpus)
    ways = report.readings["blots"]
    assert list(ways) == [TRAINING, AS_ASKED, WITH_WORDS, STATED]
    asked, worded, stated = ways[AS_ASKED], ways[WITH_WORDS], ways[STATED]
    assert asked.proportions["grey"].low < 0.8 < asked.proportions["grey"].high
    assert asked.proportions["grey"].count + asked.proportions["green"].count == 60 and asked.right is None
    assert worded.wanted == dict.fromkeys(list(COLOURS)[:4], 0.25)
    assert worded.distance is not None and worded.chance is not None and worded.distance < worded.chance
    for colour in worded.wanted:
        assert worded.proportions[colour].low < 0.25 < worded.proportions[colour].high
    assert worded.right is not None and (worded.right.right, worded.right.stated) == (60, 60)
    assert stated.right is not None and stated.right.value == 1
    assert [stated.proportions[colour].count for colour in ("red", "blue")] == [30, 30]
    assert report.reader["blots"].value > 0.9
    assert FairnessReport.model_validate_json(report.model_dump_json()) == report


def test_the_training_shares_are_those_of_the_corpus(
    corpus: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    from tests.evaluation import toy

    rows = [row for row in toy.rows() if (row["style"], row["split"]) == ("blot", "train")]
    red = sum(json.loads(row["meta"])["body_color"] == "red" for row in rows)
    found = audit(reader, tmp_path, Partial(), corpus).readings["blots"][TRAINING]
    assert (found.pictures, found.proportions["red"].count) == (len(rows), red)


def test_a_stopped_audit_goes_on_and_a_larger_one_adds(reader: AttributeClassifier, tmp_path: Path) -> None:
    whole = audit(reader, tmp_path / "whole", Partial())
    first, second, third = Partial(patience=100), Partial(), Partial()
    with pytest.raises(KeyboardInterrupt):
        audit(reader, tmp_path / "parts", first)
    assert audit(reader, tmp_path / "parts", second) == whole
    kept = 3 * 30 + 8  # three prompts of 30 pictures and a batch; what came of the next batch is lost
    assert len(first.drawn) == 100 and len(second.drawn) == 180 - kept
    audit(reader, tmp_path / "parts", third, plan=PLAN.model_copy(update={"count": 64}))
    assert len(third.drawn) < 64


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (789, 1000), (1, 3)])
def test_intervals_are_wilsons(count: int, total: int) -> None:
    expected = binomtest(count, total).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(count, total), (expected.low, expected.high), atol=1e-7)


def test_nine_of_ten_intervals_hold_the_truth() -> None:
    generator = np.random.default_rng(0)
    for share, total in ((0.1, 40), (0.5, 100), (0.02, 200)):
        counts = generator.binomial(total, share, 2000)
        held = [low <= share <= high for low, high in (wilson(int(c), total) for c in counts)]
        assert np.mean(held) > 0.92


def test_distances_and_what_chance_gives() -> None:
    assert distance({"a": 0.7, "b": 0.3}, {"a": 0.5, "c": 0.5}) == pytest.approx(0.5)
    assert distance({"a": 1.0}, {"a": 1.0}) == 0
    # two values: the distance is |X/n - 1/2|, X binomial; its 95th percentile is about 1.96 / (2 sqrt n)
    assert chance_distance([1, 1], 400) == pytest.approx(1.96 / 40, abs=0.004)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": "cat"}, "knows no style 'cat'; there are blot, flag"),
        ({"attribute": "weight"}, "no attribute 'weight' of blot; there are"),
        ({"stated": {"violet": ["x"]}}, "reads no 'violet'; there are"),
        ({"attribute": "shape"}, "its table has no quality 'shape'; there are body_color"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_drawn(
    change: dict[str, object], message: str, reader: AttributeClassifier, tmp_path: Path
) -> None:
    sets = {"blots": AUDIT.sets["blots"].model_copy(update=change)}
    drawer = Partial()
    with pytest.raises(CogViewError, match=message):
        evaluate_fairness(Audit(sets=sets), {"blots": TABLE}, PLAN, reader, drawer, tmp_path)
    assert not drawer.drawn


def test_the_recipe_is_read_with_its_tables() -> None:
    """And its prompts say what the tables look for: open ones get words, stated ones stay as they are."""
    asked, tables = read_audit(RECIPES / "avatars.yaml")
    assert set(tables) == set(asked.sets)
    for name, own in asked.sets.items():
        for prompt in own.prompts:
            made = replace_words(prompt, tables[name], 0, 0)
            assert set(made.drawn) == {own.attribute}
            assert replace_words(made.text, tables[name], 1, 1).text == made.text
        for value, prompts in own.stated.items():
            for prompt in prompts:
                assert replace_words(prompt, tables[name], 0, 0).text == prompt, value
    monsters = tables["colour of monsters"]
    found = replace_words("cute monster on a blue background", monsters, 0, 0)
    assert found.drawn and found.text.endswith("cute monster on a blue background")


def test_the_command_audits_a_family(
    reader: AttributeClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family = tiny.write(tmp_path / "family")
    reader.save(tmp_path / "reader")
    (tmp_path / "audit.yaml").write_text(
        "sets: {blots: {style: blot, attribute: body_color, prompts: [circle], table: table.yaml}}"
    )
    (tmp_path / "table.yaml").write_text(
        "people: {en: [circle]}\n"
        "qualities: {body_color: {red: {share: 1, words: {en: red}}, blue: {share: 3, words: {en: blue}}}}"
    )
    words = ["eval", "fairness", str(tmp_path / "audit.yaml"), "--model", str(family), "-n", "4"]
    words += ["--classifier", str(tmp_path / "reader"), "--work", str(tmp_path / "work")]
    out, plot = tmp_path / "out.json", tmp_path / "bars.png"
    assert main([*words, "--out", str(out), "--plot", str(plot)]) == 0
    printed = capsys.readouterr().out
    assert "with words" in printed and "(4)" in printed and "green" in printed
    report = FairnessReport.model_validate_json(out.read_text())
    assert report.readings["blots"][WITH_WORDS].wanted == {"blue": 0.75, "red": 0.25}
    with Image.open(plot) as image:
        assert image.width > 500
    (tmp_path / "audit.yaml").write_text("sets: {}")
    assert main(words) == 2
    assert "audit.yaml: sets" in capsys.readouterr().err
