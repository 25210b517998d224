"""Captions of held-out toy pictures, read; the describer is one whose captions are known."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.experiments.captions import (
    CaptionPlan,
    CaptionReport,
    evaluate_captions,
    read_caption,
)
from cogview.evaluation.judges.attribute_corpus import Attribute, Statement, read_avatars, read_images
from tests.evaluation import toy

PLAN = CaptionPlan(count=20, bootstrap=50)


@dataclass
class Knowing:
    """Knows every picture by its pixels; says its true caption, with a share of colours wrong."""

    corpus: Path
    wrong: float = 0.0
    name: str = "knowing"
    fingerprint: str = "0"
    image_size: int = toy.SIZE
    known: dict[bytes, Any] = field(default_factory=dict)
    captions: dict[bytes, set[str]] = field(default_factory=dict)  # pictures of several numbers are one

    def __post_init__(self) -> None:
        avatars = {avatar.key: avatar for avatar in read_avatars(self.corpus)}
        shape = Preprocessing(size=toy.SIZE, resample="box")
        for key, pixels in read_images(self.corpus, avatars, shape):
            self.known[pixels.tobytes()] = avatars[key]
            self.captions.setdefault(pixels.tobytes(), set()).update(avatars[key].captions.values())

    def caption(self, pictures: NDArray[np.uint8], language: str, plan: CaptionPlan) -> list[str]:
        return [self.say(self.known[picture.tobytes()], language) for picture in pictures]

    def say(self, avatar: Any, language: str) -> str:
        caption: str = avatar.captions[language]
        if random.Random(avatar.key).random() < self.wrong:
            names = list(toy.COLOURS)
            colour = avatar.values.get("body_color") or avatar.values["first_color"]
            other = names[names.index(colour) - 1]
            caption = caption.replace(colour, other).replace(toy.COLOURS[colour], toy.COLOURS[other])
        return caption

    def losses(self, pictures: NDArray[np.uint8], texts: Sequence[str]) -> NDArray[np.float64]:
        told = zip(pictures, texts, strict=True)
        return np.array([float(text not in self.captions[p.tobytes()]) for p, text in told])


def test_true_captions_are_read_right_and_others_are_not(corpus: Path) -> None:
    """The ceiling is the true captions' own; with every colour wrong only colours are."""
    right = evaluate_captions(PLAN, corpus, Knowing(corpus), rare=8)
    assert set(right.accuracy) == {"true zh", "zh", "true en", "en"}
    for language in ("zh", "en"):
        assert right.accuracy[language].overall.value == right.accuracy[f"true {language}"].overall.value == 1
        floor = right.accuracy[language].floor
        assert floor is not None and floor < 1
        assert right.accuracy[language].by_group["colour of a part"].stated == 20
    wrong = evaluate_captions(PLAN, corpus, Knowing(corpus, wrong=1.0), rare=8)
    for language in ("zh", "en"):
        groups = wrong.accuracy[language].by_group
        assert groups["colour of a part"].right == 0
        rest = [share for name, share in groups.items() if name != "colour of a part"]
        assert all(share.right == share.stated > 0 for share in rest)
    assert CaptionReport.model_validate_json(wrong.model_dump_json()) == wrong
    assert set(wrong.captions["en"]) == set(wrong.selection.keys)


def test_own_captions_against_others(corpus: Path) -> None:
    """The toy's losses are 0 and 1, so the share that prefers its own is the mean of the other."""
    report = evaluate_captions(PLAN, corpus, Knowing(corpus), rare=8)
    for language in ("zh", "en"):
        found = report.matching[language]
        assert found.own == 0 and 0 < found.other == found.preferred <= 1


def test_progress_and_too_few_pictures(corpus: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate_captions(
        PLAN.model_copy(update={"count": 3, "languages": ("en",)}),
        corpus,
        Knowing(corpus),
        rare=8,
        progress=lambda *told: seen.append(told),
    )
    assert seen == [("captioning en", i, 3) for i in (1, 2, 3)]
    with pytest.raises(CogViewError, match="held-out combinations"):
        evaluate_captions(PLAN.model_copy(update={"count": 999}), corpus, Knowing(corpus), rare=8)


def test_the_longest_phrase_counts() -> None:
    classes = (
        Statement(values=("smile",), phrases={"en": (" smile ",)}),
        Statement(values=("big",), phrases={"en": (" big smile ", " grin ")}),
        Statement(values=("",), phrases={}),
    )
    mouth = Attribute(style="s", name="mouth", classes=classes)
    for text, label in (("A smile", 0), ("a big smile.", 1), ("a grin", 1), ("a frown", None), ("", None)):
        assert read_caption([mouth], text, "en").get("mouth") == label


class Silent(Knowing):
    """Describes nothing any more."""

    def caption(self, pictures: NDArray[np.uint8], language: str, plan: CaptionPlan) -> list[str]:
        raise AssertionError("it was described before")


def test_captions_that_are_kept_are_not_made_again(corpus: Path, tmp_path: Path) -> None:
    first = evaluate_captions(PLAN, corpus, Knowing(corpus), rare=8, work=tmp_path)
    again = evaluate_captions(PLAN, corpus, Silent(corpus), rare=8, work=tmp_path)
    assert again.captions == first.captions and again.accuracy == first.accuracy
    with pytest.raises(AssertionError):  # another seed, other captions
        other = PLAN.model_copy(update={"seed": 1})
        evaluate_captions(other, corpus, Silent(corpus), rare=8, work=tmp_path)
