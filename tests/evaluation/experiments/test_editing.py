"""The editing experiment with editors whose doing is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cogview.cli.app import main
from cogview.errors import CogViewError
from cogview.evaluation.experiments.edits import (
    FILE,
    Edit,
    EditingPlan,
    evaluate_editing,
    read_edits,
    readable_tasks,
)
from cogview.evaluation.experiments.image_generator import ModelGenerator
from cogview.evaluation.judges.classifier import AttributeClassifier
from tests.evaluation import toy
from tests.generation import tiny, tiny2

Mask = NDArray[np.bool_]
DRAWER = toy.CaptionDrawer()


class Hand:
    """An editor that does what a function of (picture, what the prompt says, mask) does."""

    def __init__(self, name: str, act: Callable[[Image.Image, Image.Image, Mask], Image.Image]) -> None:
        self.name = self.fingerprint = name
        self.precision = "fp32"
        self.act, self.asked = act, list[str]()

    def edit(
        self, picture: Image.Image, prompt: str, mask: Mask, seed: int, plan: EditingPlan
    ) -> Image.Image:
        self.asked.append(prompt)
        return self.act(picture, DRAWER.generate([prompt], 0, None)[0].resize(picture.size), mask)


def inside(picture: Image.Image, wanted: Image.Image, mask: Mask) -> Image.Image:
    pixels = np.array(picture)
    pixels[mask] = np.asarray(wanted)[mask]
    return Image.fromarray(pixels)


FAITHFUL = ("faithful", inside)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six blots whose colour changes and four flags whose bands do; one task of what nobody reads."""
    folder = tmp_path_factory.mktemp("edits")
    rows: list[dict[str, Any]] = []
    for number in range(10):
        colours, style = list(toy.COLOURS), "blot" if number < 6 else "flag"
        before = {"body_color": colours[number % 5], "shape": "square"}
        if style == "flag":
            before = {"first_color": colours[number % 5], "way": "standing"}
        name = "body_color" if style == "blot" else "way"
        after = before | {name: colours[(number + 1) % 5] if style == "blot" else "lying"}
        rows.append(task(folder, number, style, before, after, name))
    hidden = {"body_color": "red", "shape": "square", "weight": "light"}
    rows.append(task(folder, 10, "blot", hidden, hidden | {"weight": "heavy"}, "weight"))
    (folder / FILE).write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return folder


def task(
    folder: Path, number: int, style: str, before: dict[str, str], after: dict[str, str], name: str
) -> dict[str, Any]:
    pictures = [toy.draw(style, values) for values in (before, after)]
    arrays = [np.asarray(picture).astype(int) for picture in pictures]
    mask = np.abs(arrays[0] - arrays[1]).sum(-1) > 0
    files = {"picture": pictures[0], "answer": pictures[1], "mask": Image.fromarray(mask)}
    for kind, image in files.items():
        image.save(folder / f"{number}-{kind}.png")
    en, zh = toy.captions(style, after | {"number": str(number)})
    named = {kind: f"{number}-{kind}.png" for kind in files}
    facts = {"key": f"{style}/{number}", "style": style, "attribute": name, "before": before, "after": after}
    return {**facts, "captions": {"en": en, "zh": zh}, **named}


def test_a_faithful_editor_changes_all_and_keeps_all(
    tasks: Path, reader: AttributeClassifier, tmp_path: Path
) -> None:
    hand = Hand(*FAITHFUL)
    report, sets = evaluate_editing(EditingPlan(), tasks, reader, hand, tmp_path)
    edited, answer, original = (report.outcomes[name] for name in ("edited", "true answer", "original"))
    assert edited == answer and edited.changed.value == edited.kept.value == 1.0
    assert edited.changed.stated == 10 and edited.by_group["colour of a part"].stated == 6
    assert original.changed.right == 0 and original.kept.value == 1.0
    assert report.untouched.right == 10 and report.skipped == 1
    assert ["flag" in text or "旗" in text for text in hand.asked] == [False] * 6 + [True] * 4
    assert [any(word in text for word in "旗的") for text in hand.asked] == [True, False] * 5  # zh, en, …
    assert {name: len(pictures) for name, pictures in sets.items()} == dict.fromkeys(sets, 10)


def test_an_idle_editor_changes_nothing(tasks: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    report, _ = evaluate_editing(EditingPlan(), tasks, reader, Hand("idle", lambda a, b, c: a), tmp_path)
    assert report.outcomes["edited"] == report.outcomes["original"]
    assert report.outcomes["edited"].changed.right == 0 and report.untouched.right == 10


def test_whoever_paints_outside_is_seen(tasks: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    """It makes every blot a circle: the shape is not kept, and pixels outside the mask differ."""

    def act(picture: Image.Image, wanted: Image.Image, mask: Mask) -> Image.Image:
        if (np.asarray(wanted)[0, 0] == 255).all() and (np.asarray(wanted)[12, 12] != 255).any():
            return toy.draw("blot", {"body_color": "red", "shape": "circle"})
        return inside(picture, wanted, mask)

    report, _ = evaluate_editing(EditingPlan(), tasks, reader, Hand("sloppy", act), tmp_path)
    assert report.untouched.right < 10
    assert report.outcomes["edited"].kept.right < report.outcomes["original"].kept.right


def test_a_stopped_run_goes_on(tasks: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    first, again = Hand(*FAITHFUL), Hand(*FAITHFUL)
    evaluate_editing(EditingPlan(count=4), tasks, reader, first, tmp_path)
    whole, _ = evaluate_editing(EditingPlan(count=4), tasks, reader, again, tmp_path)
    assert len(first.asked) == 4 and not again.asked and whole.untouched.stated == 4
    other = Hand(*FAITHFUL)
    evaluate_editing(EditingPlan(count=4, seed=1), tasks, reader, other, tmp_path)
    assert len(other.asked) == 4


def test_only_what_can_be_read_counts(tasks: Path, reader: AttributeClassifier) -> None:
    edits = read_edits(tasks)
    assert len(edits) == 11 and len(readable_tasks(edits, reader.config.attributes)) == 10
    same = edits[0].model_copy(update={"after": edits[0].before})
    assert readable_tasks([same], reader.config.attributes) == []


def test_what_is_wrong_is_told(tasks: Path, reader: AttributeClassifier, tmp_path: Path) -> None:
    hand = Hand(*FAITHFUL)
    with pytest.raises(CogViewError, match=r"edits\.jsonl: cannot be read"):
        evaluate_editing(EditingPlan(), tmp_path, reader, hand, tmp_path)
    with pytest.raises(CogViewError, match="no caption in 'fr'"):
        evaluate_editing(EditingPlan(languages=("fr",)), tasks, reader, hand, tmp_path)
    for text, said in (("", "no tasks"), ("nonsense", "line 1: not valid JSON"), ("{}", "line 1: key")):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(CogViewError, match=said):
            read_edits(tmp_path)
    row = read_edits(tasks)[10]
    (tmp_path / FILE).write_text(row.model_dump_json())
    with pytest.raises(CogViewError, match="knows none of the attributes"):
        evaluate_editing(EditingPlan(), tmp_path, reader, hand, tmp_path)
    assert isinstance(row, Edit)


def test_the_command_edits_with_a_family(
    tasks: Path, reader: AttributeClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader.save(tmp_path / "classifier")
    family = tiny2.write(tmp_path / "family")
    words = ["eval", "editing", str(tasks), "--classifier", str(tmp_path / "classifier"), "-n", "2"]
    words += ["--work", str(tmp_path / "work"), "--sheet", str(tmp_path / "sheet.png"), "--language", "en"]
    assert main([*words, "--model", str(family), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["untouched"] == {"right": 2, "stated": 2} and report["plan"]["languages"] == ["en"]
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height >= 4 * toy.SIZE
    assert main([*words, "--model", str(tiny.write(tmp_path / "other"))]) == 2
    assert "cannot edit images; take --model" in capsys.readouterr().err


def test_edits_of_another_precision_are_not_those_of_fp32(tmp_path: Path) -> None:
    """Both have one ``--work``, whose folders are keyed by the editor's fingerprint."""
    family = tiny2.write(tmp_path)
    plain, quick = (ModelGenerator(str(family), precision) for precision in ("fp32", "int8"))
    assert quick.fingerprint == f"{plain.fingerprint} int8"
