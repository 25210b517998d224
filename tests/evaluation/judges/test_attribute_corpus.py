"""What captions state, and that held-out combinations are held out."""

from __future__ import annotations

import json
import random
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.evaluation.judges.attribute_corpus import (
    Avatar,
    TrainingCombinations,
    corpus_fingerprint,
    find_attributes,
    read_avatars,
    read_images,
    select,
    spaced,
    statements,
)
from tests.evaluation import toy

WORDS = {"body_color": toy.COLOURS, "first_color": toy.COLOURS, "shape": toy.SHAPES, "way": toy.LIES}


def avatar(
    key: str, captions: tuple[str, str], split: str = "train", style: str = "s", **values: str
) -> Avatar:
    return Avatar(key, style, split, dict(zip(("en", "zh"), captions, strict=True)), values)


def test_tokens_are_words_and_chinese_characters() -> None:
    assert spaced("A ring-shaped sun，蓝色T恤") == " ^ a ring-shaped sun ， 蓝 色 t 恤 $ "


def test_every_caption_word_of_the_toy_corpus_is_found(corpus: Path) -> None:
    avatars = read_avatars(corpus)
    attributes = find_attributes([a for a in avatars if a.split == "train"], rare=8)
    found = {(a.style, a.name): {s.values for s in a.classes} for a in attributes}
    colours = {(name,) for name in toy.COLOURS}
    assert found == {
        ("blot", "body_color"): colours,
        ("blot", "mark"): {("",), ("dot1", "dot2")},
        ("blot", "shape"): {("circle",), ("square",), ("cross",)},
        ("flag", "first_color"): colours,
        ("flag", "way"): {("standing",), ("lying",), ("framed",)},
    }
    for each in avatars:
        said = {
            name: value
            for name, value in each.values.items()
            if WORDS.get(name, {}).get(value, "-") in _zh(each)
        }
        said |= {"mark": each.values["mark"]} if "圆点" in _zh(each) else {}
        read = statements(each, attributes)
        assert {name: each.values[name] for name in read} == said
        for attribute in attributes:
            if attribute.style == each.style and attribute.name in read:
                assert each.values[attribute.name] in attribute.classes[read[attribute.name]].values


def _zh(each: Avatar) -> str:
    return each.captions["zh"]


def test_a_rare_value_is_not_read() -> None:
    many = [avatar(f"a{i}", (f"red {i}", f"红{i}"), hue="red") for i in range(30)]
    many += [avatar(f"b{i}", (f"blue {i}", f"蓝{i}"), hue="blue") for i in range(30)]
    few = [avatar(f"c{i}", (f"teal {i}", f"青{i}"), hue="teal") for i in range(9)]
    (attribute,) = find_attributes([*many, *few], rare=10)
    assert {s.values for s in attribute.classes} == {("red",), ("blue",)}
    assert attribute.label(few[0]) is None


def test_a_general_word_is_told_by_elimination() -> None:
    """ "sun" stands in all captions of the orb, also in "without a sun" and "glowing sun"."""
    kinds = {"sun": ("under a sun", "有色的太阳"), "glow": ("under a glowing sun", "有发光的太阳")}
    rows = [
        avatar(f"{k}{i}", (f"hill {i} {t[0]}", f"山{i}{t[1]}"), orb=k)
        for k, t in kinds.items()
        for i in range(30)
    ]
    rows += [avatar(f"n{i}", (f"hill {i} without a sun", f"山{i}没有太阳")) for i in range(30)]
    (attribute,) = find_attributes(rows, rare=10)
    assert [s.values for s in attribute.classes] == [("",), ("glow",), ("sun",)]
    assert statements(rows[0], [attribute]) == {"orb": 2}
    assert statements(rows[-1], [attribute]) == {}, "absence is read but never counted"


def test_captions_that_say_nothing_give_no_attribute() -> None:
    rows = [avatar(str(i), (f"thing {i}", f"物{i}"), weight=("light", "heavy")[i % 2]) for i in range(60)]
    assert find_attributes(rows, rare=10) == ()


VALUES = st.fixed_dictionaries({"hue": st.sampled_from("rgb"), "form": st.sampled_from("xyz")})


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(VALUES, st.booleans(), st.sampled_from("st")), max_size=40), st.randoms())
def test_selected_combinations_are_new_to_training(
    drawn: list[tuple[dict[str, str], bool, str]], order: random.Random
) -> None:
    base = [
        avatar(
            f"base{style}{h}{f}{i}", (f"hue {h} form {f} {i}", f"色{h}形{f} {i}"), style=style, hue=h, form=f
        )
        for style in "st"
        for i in range(4)
        for h, f in ("rx", "ry", "gy", "gz", "bz", "bx")
    ]
    rows = base + [
        avatar(
            str(i),
            (f"hue {v['hue']} form {v['form']} {i // 2}", f"色{v['hue']}形{v['form']} {i}"),
            split="train" if train else "test_comp",
            style=style,
            **v,
        )
        for i, (v, train, style) in enumerate(drawn)
    ]
    training = [row for row in rows if row.split == "train"]
    attributes = find_attributes(training, rare=5)
    pairs = {(r.style, *pair) for r in training for pair in combinations(sorted(r.values.items()), 2)}
    captions = {text for r in training for text in r.captions.values()}
    able = [
        r
        for r in rows
        if r.split == "test_comp"
        and (r.style, *sorted(r.values.items())) not in pairs
        and captions.isdisjoint(r.captions.values())
    ]
    seen = TrainingCombinations(rows, attributes)
    assert [r.key for r in rows if r.split == "test_comp" and seen.unseen(r)] == [r.key for r in able]
    count = min(4, len({(r.style, r.captions["en"]) for r in able}))
    if count:
        chosen = select(rows, attributes, count, seed=3).keys
        assert set(chosen) <= {r.key for r in able}
        shuffled = rows.copy()
        order.shuffle(shuffled)
        assert select(shuffled, attributes, count, seed=3).keys == chosen


def test_selection_is_balanced_and_says_what_is_new(corpus: Path) -> None:
    avatars = read_avatars(corpus)
    attributes = find_attributes([a for a in avatars if a.split == "train"], rare=8)
    able = {s: sum(a.split == "test_comp" and a.style == s for a in avatars) for s in ("blot", "flag")}
    few = min(able.values())
    selection = select(avatars, attributes, 2 * few - 1)
    styles = [key.split("/")[0] for key in selection.keys]
    assert abs(styles.count("blot") - styles.count("flag")) == 1
    assert {pair for pairs in selection.unseen.values() for pair in pairs} == {
        "body_color=red + shape=circle",
        "first_color=green + way=lying",
    }
    assert select(avatars, attributes, 6, seed=1).keys != select(avatars, attributes, 6, seed=2).keys
    assert len(select(avatars, attributes, sum(able.values())).keys) == sum(able.values())
    with pytest.raises(CogViewError, match="held-out combinations, not 999; lower --n"):
        select(avatars, attributes, 999)


def test_pictures_come_with_their_keys(corpus: Path) -> None:
    wanted = ["flag/1", "blot/4", "blot/0"]
    found = dict(read_images(corpus, wanted, Preprocessing(size=toy.SIZE, resample="box")))
    assert sorted(found) == sorted(wanted)
    row = next(r for r in toy.rows() if r["key"] == "blot/4")
    expected = np.asarray(toy.draw("blot", json.loads(row["meta"])))
    assert np.array_equal(found["blot/4"], expected)


def test_fingerprint_follows_content_not_order(corpus: Path) -> None:
    avatars = read_avatars(corpus)
    assert corpus_fingerprint(avatars[::-1]) == corpus_fingerprint(avatars)
    assert corpus_fingerprint(avatars[1:]) != corpus_fingerprint(avatars)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta": "[1"}, "meta column is not a JSON object"),
        ({"meta": "[1]"}, "meta column is not a JSON object"),
        ({"source": "other"}, "no row whose source is 'dice'"),
        ({"style": None}, "no column 'style'"),
    ],
)
def test_wrong_corpora_are_named(tmp_path: Path, change: dict[str, str | None], message: str) -> None:
    rows = [{**row, **change} for row in toy.rows(2)]
    if None in change.values():
        rows = [{k: v for k, v in row.items() if v is not None} for row in rows]
    with pytest.raises(CogViewError, match=message):
        read_avatars(toy.write(tmp_path, rows))


def test_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CogViewError, match="no Parquet file here"):
        read_avatars(tmp_path)
    (tmp_path / "dice-000.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(CogViewError, match=r"dice-000\.parquet: cannot be read as Parquet"):
        read_avatars(tmp_path)


def test_a_broken_picture_is_named(tmp_path: Path) -> None:
    rows = toy.rows(4)
    rows[2]["image"] = rows[2]["image"][:60]
    corpus = toy.write(tmp_path, rows)
    with pytest.raises(CogViewError, match="image 'blot/2' is broken: truncated"):
        dict(read_images(corpus, ["blot/0", "blot/2"], Preprocessing(size=8)))
