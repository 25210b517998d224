"""Word replacing: proportions are met, what a prompt decides is left alone, and nothing else changes."""

import json
import math
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview import CogView
from cogview.checkpoints import provenance
from cogview.cli.app import main
from cogview.config import dump_yaml, validate
from cogview.errors import CogViewError
from cogview.generation.fairness import FairnessTable, read_table, replace_words, world
from tests.generation import tiny

WORLD = world()
ENGLISH = ("a photo of a {} in the rain", "the {}, smiling", "an old {} with a white dog", "{} at work")
CHINESE = ("雨中的{}", "一个{}在工作", "年轻的{}，微笑", "照片：{}和一只白色的狗")
TABLE = {
    "people": {"en": ["circle", "square"], "zh": ["圆", "方块"]},
    "qualities": {
        "colour": {
            "red": {
                "share": 3,
                "words": {"en": "red", "zh": "红色的"},
                "named": {"zh": ["红色"]},
            },
            "blue": {
                "share": 1,
                "words": {"en": "blue", "zh": "蓝色的"},
                "named": {"en": ["blue"], "zh": ["蓝色"]},
            },
        },
        "rim": {
            "thin": {"share": 1, "place": "after", "words": {"en": "up", "zh": "，边"}},
        },
    },
}


def prompts(count: int) -> list[str]:
    """Different sentences about a person, both languages in turn, that name neither gender nor origin."""
    english = product(
        ENGLISH, ("doctor", "nurse", "person", "teacher", "engineer", "child", "football player")
    )
    chinese = product(CHINESE, ("医生", "护士", "人", "老师", "工程师", "孩子", "运动员"))
    pairs = [text.format(who) for pair in zip(english, chinese, strict=True) for text, who in pair]
    return [f"{pairs[i % len(pairs)]}, {i}" for i in range(count)]


@pytest.mark.parametrize("way", ["prompts", "pictures"])
def test_requested_shares_are_met_within_sampling_error(way: str) -> None:
    """Over 1,000 prompts, and over 1,000 pictures of one, a count is within four deviations of its share."""
    counts = {name: Counter[str]() for name in WORLD.qualities}
    for number, prompt in enumerate(prompts(1000)):
        seed, index = (number, 0) if way == "prompts" else (5, number)
        drawn = replace_words(prompt if way == "prompts" else "a face, photo", WORLD, seed, index).drawn
        assert set(drawn) == set(WORLD.qualities), prompt
        for name, value in drawn.items():
            counts[name][value] += 1
    for name in WORLD.qualities:
        for value, share in WORLD.shares(name).items():
            error = math.sqrt(1000 * share * (1 - share))
            assert abs(counts[name][value] - 1000 * share) < 4 * error, (name, value)


def test_qualities_are_drawn_independently() -> None:
    """Gender says nothing of origin: chi-square over 4,000 pictures stays below its 99.9th percentile."""
    pairs = Counter(tuple(replace_words("a person", WORLD, 9, i).drawn.values()) for i in range(4000))
    rows, columns = (Counter[str]() for _ in range(2))
    for (origin, gender), count in pairs.items():
        rows[origin] += count
        columns[gender] += count
    expected = {pair: rows[pair[0]] * columns[pair[1]] / 4000 for pair in pairs}
    assert sum((pairs[pair] - e) ** 2 / e for pair, e in expected.items()) < 16.3  # 3 degrees of freedom


def test_a_thousand_prompts_that_name_both_are_untouched() -> None:
    english = product(ENGLISH, ("Black woman", "Chinese man", "female European doctor", "white male nurse"))
    chinese = product(CHINESE, ("黑人女医生", "中国男人", "欧洲女孩", "印度男孩子"))
    named = [text.format(who) for pair in zip(english, chinese, strict=True) for text, who in pair]
    for i in range(1000):
        prompt = f"{named[i % len(named)]}, {i}"
        assert replace_words(prompt, WORLD, i, i).model_dump() == {"text": prompt, "drawn": {}}


def test_words_stand_before_the_person_in_the_prompts_language() -> None:
    found = replace_words("a photo of a person in the rain", WORLD, 0, 0)
    origin, gender = found.drawn["origin"], found.drawn["gender"]
    article = "an" if origin == "Asian" else "a"
    assert found.text == f"a photo of {article} {origin} {gender} person in the rain"
    chinese = replace_words("一个老师在上课", WORLD, 0, 0)
    words = "".join(WORLD.qualities[name][value].words["zh"] for name, value in chinese.drawn.items())
    assert chinese.text == f"一个{words}老师在上课"


def test_words_may_stand_after_it_too() -> None:
    table = validate(FairnessTable, TABLE, "table")
    assert replace_words("a red circle, big", table, 0, 0).text == "a red circle up, big"
    assert replace_words("一个红色的圆", table, 0, 0).text == "一个红色的圆，边"
    assert replace_words("a square", table, 0, 0).text in ("a red square up", "a blue square up")


def test_what_the_prompt_decides_is_left_alone() -> None:
    assert set(replace_words("a female doctor", WORLD, 1, 2).drawn) == {"origin"}
    assert set(replace_words("a Chinese person", WORLD, 1, 2).drawn) == {"gender"}
    assert set(replace_words("一个女人在微笑", WORLD, 1, 2).drawn) == {"origin"}
    for prompt in ("a Black woman, a happy person", "亚洲女孩子", "an old man, a white face"):
        assert replace_words(prompt, WORLD, 1, 2).text == prompt


def test_words_come_before_those_that_already_describe_the_person() -> None:
    assert replace_words("a female doctor", WORLD, 1, 2).text.endswith("female doctor")
    found = replace_words("一个女医生", WORLD, 1, 2)
    assert found.text == f"一个{WORLD.qualities['origin'][found.drawn['origin']].words['zh']}女医生"


def test_a_word_of_two_meanings_counts_where_it_describes_a_person() -> None:
    for prompt in (
        "a doctor in a white coat",
        "a person with a black cat",
        "a black and white photo of a nurse",
    ):
        assert set(replace_words(prompt, WORLD, 0, 0).drawn) == {"origin", "gender"}, prompt
    for prompt in (
        "a doctor who is Black",
        "a white old doctor",
        "black or white people",
        "a face, white skin",
    ):
        assert set(replace_words(prompt, WORLD, 0, 0).drawn) == {"gender"}, prompt


@pytest.mark.parametrize(
    "prompt",
    [
        *("a red apple", "红色的苹果", "a personal computer", "the surface of the moon", "一个机器人", ""),
        *(
            "a portrait of a cat",
            "cat face",
            "clock face, red",
            "粉色的圆花盆里种着仙人掌",
            "a man-made lake",
        ),
        *("人工智能", "一个黄色的黏土小人", "a scale model of a ship", "human rights", "雪人，白色背景"),
    ],
)
def test_a_prompt_without_people_is_untouched(prompt: str) -> None:
    assert replace_words(prompt, WORLD, 3, 4).model_dump() == {"text": prompt, "drawn": {}}


@given(st.text(max_size=60), st.integers(0, 2**32), st.integers(0, 1000))
def test_it_only_adds_words_and_always_the_same(prompt: str, seed: int, index: int) -> None:
    found = replace_words(prompt, WORLD, seed, index)
    assert found == replace_words(prompt, WORLD, seed, index)
    if not found.drawn:
        assert found.text == prompt
    else:
        assert len(found.text) > len(prompt)


@given(st.sampled_from(prompts(56)), st.integers(0, 2**32))
def test_what_was_added_is_not_added_again(prompt: str, seed: int) -> None:
    once = replace_words(prompt, WORLD, seed, 0).text
    assert replace_words(once, WORLD, seed + 1, 0).model_dump() == {"text": once, "drawn": {}}


def test_a_table_without_a_word_is_refused(tmp_path: Path) -> None:
    table = {"people": {"en": ["cat"]}, "qualities": {"colour": {"red": {"share": 1, "words": {"zh": "红"}}}}}
    with pytest.raises(CogViewError, match=r"qualities\.colour\.red has no word in 'en'"):
        validate(FairnessTable, table, "table")
    with pytest.raises(CogViewError, match="no such table"):
        read_table(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text(
        "people: {en: [cat]}\nqualities: {a: {b: {share: -1, words: {en: x}}}}"
    )
    with pytest.raises(CogViewError, match=r"bad\.yaml: qualities\.a\.b\.share"):
        read_table(tmp_path / "bad.yaml")


def test_a_word_inside_another_is_passed_over() -> None:
    assert replace_words("机器人和人", WORLD, 0, 0).text.startswith("机器人和")


# ------------------------------------------------------------------------------------------ drawing by it


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CogView:
    return CogView.from_pretrained(tiny.write(tmp_path_factory.mktemp("family"), captioning=True))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "colours.yaml"
    path.write_text(dump_yaml(validate(FairnessTable, TABLE, "table")), encoding="utf-8")
    return path


def test_pictures_tell_what_was_asked_and_what_was_drawn(model: CogView, file: Path, tmp_path: Path) -> None:
    table = read_table(file)
    pictures = model.generate(["a circle", "a blue dog"], n=3, seed=4, fairness=file)
    for picture in pictures[:3]:
        expected = replace_words("a circle", table, 4, picture.index)
        assert picture.prompt == "a circle" and picture.caption == expected.text != picture.prompt
        told = picture.settings["fairness"]
        assert told["table"] == "colours.yaml" and told["table_hash"] == table.fingerprint
        assert (told["text"], told["drawn"]) == (expected.text, expected.drawn)
    assert [p.caption for p in pictures[3:]] == ["a blue dog"] * 3
    assert pictures[3].settings["fairness"]["drawn"] == {}
    pictures[1].save(tmp_path / "x.png")
    read = provenance.read(tmp_path / "x.png")
    assert (
        read is not None
        and read.prompt == "a circle"
        and read.settings["fairness"]
        == told
        | {
            "text": pictures[1].caption,
            "drawn": pictures[1].settings["fairness"]["drawn"],
        }
    )


def test_a_picture_is_the_same_alone_and_by_the_text_that_was_drawn(model: CogView, file: Path) -> None:
    picture = model.generate("a circle", n=3, seed=4, fairness=file, style="pixel")[2]
    for again in (
        model.generate("a circle", seed=4, first=2, fairness=file, style="pixel")[0],
        model.generate(picture.settings["fairness"]["text"], seed=4, first=2, style="pixel")[0],
    ):
        assert again.codes.tolist() == picture.codes.tolist() and again.caption == picture.caption


def test_off_unless_asked_for(model: CogView) -> None:
    picture = model.generate("a circle", seed=4)[0]
    assert picture.caption == "a circle" and "fairness" not in picture.settings


def test_choosing_the_best_keeps_the_shares(model: CogView, file: Path) -> None:
    """Candidates of one picture share their words, so no value is preferred by the ranking."""
    table = read_table(file)
    pictures = model.generate("a circle", n=6, seed=4, fairness=file, best_of=2)
    expected = [replace_words("a circle", table, 4, i).drawn for i in range(6)]
    assert [p.settings["fairness"]["drawn"] for p in pictures] == expected
    assert [p.index // 2 for p in pictures] == list(range(6))
    assert all(p.settings["best_of"]["of"] == 2 for p in pictures)


def test_the_command_takes_a_table(
    model: CogView, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    family, out = str(model.bundle.directory), str(tmp_path / "out")
    words = ["generate", "a circle", "-n", "2", "--seed", "4", "--model", family, "-o", out, "--fairness"]
    assert main([*words, str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert "fairness" not in told["settings"]
    for index, picture in enumerate(told["pictures"]):
        drawn = replace_words("a circle", read_table(file), 4, index)
        assert picture["caption"] == picture["fairness"]["text"] == drawn.text
    assert main([*words, "nothing.yaml"]) == 2
    assert "no such table" in capsys.readouterr().err
