"""The prompts that ship: complete and different from each other; a wrong line is one clear message."""

import re
from collections import Counter
from pathlib import Path

import pytest

from cogview.errors import CogViewError
from cogview.evaluation.metrics.scene_rules import TASKS
from cogview.evaluation.prompts import SCENES, THINGS, scene_prompts, thing_names

NUMBERS = {2: ("two", "2", "两"), 3: ("three", "3", "三"), 4: ("four", "4", "四")}


def test_scenes_are_enough_for_every_task_and_no_prompt_comes_twice() -> None:
    prompts = scene_prompts()
    assert Counter(prompt.task for prompt in prompts) == dict.fromkeys(TASKS, 360)
    assert len({prompt.id for prompt in prompts}) == len(prompts) >= 2000
    for task in TASKS:
        asked = [(prompt.en, prompt.zh) for prompt in prompts if prompt.task == task]
        assert len(set(asked)) == len(asked)


def test_scenes_ask_for_what_their_task_is_about() -> None:
    for prompt in scene_prompts():
        counts = [asked.count for asked in prompt.asked]
        coloured = [asked.colour is not None for asked in prompt.asked]
        assert len(prompt.asked) == (1 if prompt.task in ("one", "count", "colour") else 2)
        assert all(coloured) is (prompt.task in ("colour", "colours"))
        assert (max(counts) > 1) is (prompt.task == "count")
        assert (prompt.place is not None) is (prompt.task == "one")


def test_the_words_say_the_counts_and_the_colours_that_are_asked_for() -> None:
    zh = {
        "red": "红", "orange": "橙", "yellow": "黄", "green": "绿", "cyan": "青", "blue": "蓝",
        "purple": "紫", "pink": "粉", "brown": "棕", "black": "黑", "white": "白", "gray": "灰",
    }  # fmt: skip
    for prompt in scene_prompts():
        for asked in prompt.asked:
            if asked.count > 1:
                en, digit, han = NUMBERS[asked.count]
                assert re.search(rf"\b({en}|{digit})\b", prompt.en, re.IGNORECASE)
                assert re.search(f"[{han}{digit}]", prompt.zh)
            if asked.colour:
                assert asked.colour in prompt.en.lower() and zh[asked.colour] in prompt.zh
        assert not re.search("[一-鿿]", prompt.en) and re.search("[一-鿿]", prompt.zh)


def test_things_have_four_wordings_a_language_and_no_name_is_two_things() -> None:
    things = thing_names()
    for language in ("en", "zh"):
        words = [text for thing in things for text in thing.prompts(language)]
        assert len(words) >= 2000 and len(set(words)) == len(words)
    assert {asked.thing for prompt in scene_prompts() for asked in prompt.asked} <= {
        thing.thing for thing in things
    }


def test_the_files_stay_small() -> None:
    assert SCENES.stat().st_size < 400_000 and THINGS.stat().st_size < 400_000


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "a", "task": "two"}', "2: en"),
        ("{", "2: line"),
        ('{"id": "a", "task": "one", "en": "a", "zh": "b", "asked": []}', "2: asked"),
        ('{"id": "a", "task": "three", "en": "a", "zh": "b", "asked": [{"thing": "cat"}]}', "2: task"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    good = '{"id": "a", "task": "one", "en": "a cat", "zh": "猫", "asked": [{"thing": "cat"}]}'
    path = tmp_path / "prompts.jsonl"
    path.write_text(f"{good}\n{line}\n", "utf-8")
    with pytest.raises(CogViewError, match=said):
        scene_prompts(path)
    path.write_text(good, "utf-8")
    assert scene_prompts(path)[0].asked[0].count == 1


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="cannot be read"):
        scene_prompts(tmp_path / "none.jsonl")
