"""Words that a model never learnt, and what near them it did."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cogview.checkpoints.bundle import ModelBundle
from cogview.checkpoints.prompt_help import PromptHelp, UnknownWord
from cogview.errors import CogViewError

WORDS = Path(__file__).parents[2] / "examples" / "pictogram" / "words.json"
TABLE: dict[str, Any] = {
    "version": 1,
    "things": {"dog": ["dog", "狗"], "wolf": ["wolf", "狼"], "ship": ["ship", "轮船"]},
    "known": {
        "en": ["a", "dog", "puppy", "wolf", "ship", "red", "hot", "in", "the", "berry", "polar", "bear"],
        "zh": ["狗", "小狗", "狼", "轮船", "红色", "的", "一只"],
    },
    "near": {
        "en": {"poodle": ["dog", "wolf"], "kayak": ["ship"], "guide dog": ["dog"]},
        "zh": {"贵宾犬": ["dog", "wolf"], "犬": ["wolf"]},
    },
}


@pytest.fixture
def told(tmp_path: Path) -> PromptHelp:
    (tmp_path / "words.json").write_text(json.dumps(TABLE), "utf-8")
    return PromptHelp(tmp_path / "words.json")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red dog", []),
        ("A Red POODLE in the ship", [("poodle", ("dog", "wolf"))]),
        ("poodles, kayaks and poodles", [("poodles", ("dog", "wolf")), ("kayaks", ("ship",))]),
        ("berries", []),
        ("a guide dog", [("guide dog", ("dog",))]),
        ("a guide, dog", []),
        ("a poodel", [("poodel", ("dog", "wolf"))]),  # misspelt
        ("a puppyy", [("puppyy", ("puppy",))]),  # the known word itself
        ("a wolves", []),
        ("a xylem of zzz, berrying", []),
        ("一只红色的贵宾犬", [("贵宾犬", ("狗", "狼"))]),  # the longest name, not the last character
        ("一只犬", [("犬", ("狼",))]),
        ("一只小狗 and a kayak", [("kayak", ("ship",))]),
        ("", []),
    ],
)
def test_unknown_words_and_what_is_near(
    told: PromptHelp, prompt: str, expected: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert told.unknown(prompt) == [UnknownWord(*word) for word in expected]


def test_it_is_said_in_the_language_of_the_word(told: PromptHelp) -> None:
    (english,), (chinese,) = told.unknown("a poodle"), told.unknown("贵宾犬")
    assert str(english) == "never learnt 'poodle'; near it: dog, wolf"
    assert str(chinese) == "没有学过“贵宾犬”，相近的有：狗、狼"


def test_a_family_without_a_table_has_no_help_and_a_damaged_table_is_named(tmp_path: Path) -> None:
    assert ModelBundle.find("pictogram-2").prompt_help is None
    path = tmp_path / "words.json"
    for wrong, named in (
        ({"version": 7}, "version"),
        ({"near": {"en": {}}}, "zh is missing"),
        ({"near": {"en": {"poodle": ["cat"]}, "zh": {}}}, "names 'cat', which is not in things"),
    ):
        path.write_text(json.dumps({**TABLE, **wrong}), "utf-8")
        with pytest.raises(CogViewError, match=rf"words\.json.*{named}"):
            PromptHelp(path).checked()


def test_reviewed_neighbours_of_a_hundred_words_are_found() -> None:
    """Of words that no caption has, at least 80 of 100 are told a thing that a reviewer chose for them."""
    reviewed = yaml.safe_load((Path(__file__).parents[1] / "data" / "unknown_words.yaml").read_text("utf-8"))
    told, things = PromptHelp(WORDS), json.loads(WORDS.read_text("utf-8"))["things"]
    found, missed = 0, []
    for language, words in reviewed.items():
        for word, good in words.items():
            names = {things[key][language == "zh"] for key in good if key in things}
            near = [name for unknown in told.unknown(word) for name in unknown.near]
            found += bool(names & set(near))
            missed += [] if names & set(near) else [(word, near)]
    assert sum(map(len, reviewed.values())) == 100
    assert found >= 80, missed
