"""Word replacing: proportions are met, what a prompt decides is left alone, and nothing else changes."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.config import validate
from cogview.errors import CogViewError
from cogview.generation.fairness import WORLD, FairnessTable, replace_words


@pytest.mark.parametrize("prompt", ["a face, photo", "一个医生在医院"])
def test_shares_are_met_within_sampling_error(prompt: str) -> None:
    """Over 1,000 pictures each count is within four standard deviations of its share."""
    counts = {name: Counter[str]() for name in WORLD.qualities}
    for index in range(1000):
        for name, value in replace_words(prompt, WORLD, seed=5, index=index).drawn.items():
            counts[name][value] += 1
    for name, choices in WORLD.qualities.items():
        for value, choice in choices.items():
            error = math.sqrt(1000 * choice.share * (1 - choice.share))
            assert abs(counts[name][value] - 1000 * choice.share) < 4 * error, (name, value)


def test_words_stand_before_the_person_in_the_prompts_language() -> None:
    found = replace_words("a photo of a person in the rain", WORLD, 0, 0)
    origin, gender = found.drawn["origin"], found.drawn["gender"]
    article = "an" if origin == "Asian" else "a"
    assert found.text == f"a photo of {article} {origin} {gender} person in the rain"
    chinese = replace_words("一个老师在上课", WORLD, 0, 0)
    words = "".join(WORLD.qualities[name][value].words["zh"] for name, value in chinese.drawn.items())
    assert chinese.text == f"一个{words}老师在上课"


def test_what_the_prompt_decides_is_left_alone() -> None:
    assert set(replace_words("a female doctor", WORLD, 1, 2).drawn) == {"origin"}
    assert set(replace_words("a Chinese person", WORLD, 1, 2).drawn) == {"gender"}
    for prompt in ("a Black woman, a happy person", "亚洲女孩子", "an old man, a white face"):
        assert replace_words(prompt, WORLD, 1, 2).text == prompt


def test_a_prompt_without_people_is_untouched() -> None:
    for prompt in (
        "a red apple",
        "红色的苹果",
        "a personal computer",
        "the surface of the moon",
        "一个机器人",
        "",
    ):
        assert replace_words(prompt, WORLD, 3, 4).model_dump() == {"text": prompt, "drawn": {}}


@given(st.text(max_size=60), st.integers(0, 2**32), st.integers(0, 1000))
def test_it_only_adds_words_and_always_the_same(prompt: str, seed: int, index: int) -> None:
    found = replace_words(prompt, WORLD, seed, index)
    assert found == replace_words(prompt, WORLD, seed, index)
    if not found.drawn:
        assert found.text == prompt
    else:
        assert len(found.text) > len(prompt)


def test_a_table_without_a_word_is_refused() -> None:
    table = {"people": {"en": ["cat"]}, "qualities": {"colour": {"red": {"share": 1, "words": {"zh": "红"}}}}}
    with pytest.raises(CogViewError, match=r"qualities\.colour\.red has no word in 'en'"):
        validate(FairnessTable, table, "table")


def test_a_word_inside_another_is_passed_over() -> None:
    assert replace_words("机器人和人", WORLD, 0, 0).text.startswith("机器人和")
