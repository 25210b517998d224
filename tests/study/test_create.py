"""A study from folders: what is copied is anonymous, what is wrong is one line and leaves nothing behind."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogview.checkpoints.provenance import Provenance, save_png
from cogview.errors import CogViewError
from cogview.study.create import create_study
from cogview.study.records import PICTURES, read_study
from cogview.study.store import Store

Inputs = dict[str, Path]


def test_pictures_are_the_same_under_names_that_say_nothing(inputs: Inputs, tmp_path: Path) -> None:
    study = create_study(tmp_path / "s", inputs, tmp_path / "captions.csv", title="t")
    assert read_study(tmp_path / "s") == study
    for group in study.groups:
        for model, name in group.pictures.items():
            with (
                Image.open(inputs[model] / f"{group.key}.png") as one,
                Image.open(tmp_path / "s" / PICTURES / name) as two,
            ):
                assert np.array_equal(np.array(one), np.array(two))
    text = " ".join(path.name for path in (tmp_path / "s" / PICTURES).iterdir())
    assert not any(model in text for model in inputs) and len(text.split()) == 16
    assert (tmp_path / "s" / "secret").stat().st_mode & 0o077 == 0


def test_captions_keep_both_languages(inputs: Inputs, tmp_path: Path) -> None:
    study = create_study(tmp_path / "s", inputs, tmp_path / "captions.csv")
    assert study.groups[2].captions == {"en": "caption <2>", "zh": "描述2"}


def test_lines_are_matched_by_the_order_of_names(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("one\ntwo\nthree\nfour\n\n", encoding="utf-8")
    study = create_study(tmp_path / "s", inputs, tmp_path / "c.txt")
    assert [group.captions for group in study.groups] == [{"": t} for t in ("one", "two", "three", "four")]


def draw(path: Path, prompt: str, shade: int) -> None:
    facts = Provenance(software="t", prompt=prompt, seed=0, model="m", model_hash="0" * 64)
    save_png(Image.new("RGB", (8, 8), (shade, 0, 0)), path, facts)


def test_pictures_that_say_their_prompt_are_matched_by_it_and_no_longer_say_it(tmp_path: Path) -> None:
    for model, shade in (("a", 1), ("b", 101)):
        (tmp_path / model).mkdir()
        draw(tmp_path / model / "z.png", "first", shade)  # by name, the other way round
        draw(tmp_path / model / "y.png", "second", shade + 1)
    (tmp_path / "c.txt").write_text("first\nsecond\n", encoding="utf-8")
    models = {"a": tmp_path / "a", "b": tmp_path / "b"}
    study = create_study(tmp_path / "s", models, tmp_path / "c.txt")
    for number, group in enumerate(study.groups):
        with Image.open(tmp_path / "s" / PICTURES / group.pictures["b"]) as picture:
            assert picture.getpixel((0, 0)) == (101 + number, 0, 0)
            assert not picture.info
    draw(tmp_path / "b" / "x.png", "first", 9)
    with pytest.raises(CogViewError, match="several images generated for 'first'"):
        create_study(tmp_path / "s2", models, tmp_path / "c.txt")


def test_mixed_sizes_are_refused_or_made_equal(inputs: Inputs, tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(inputs["old"] / "c1.png")
    with pytest.raises(CogViewError, match=r"mixed sizes.*8 x 8.*c1.png is 30 x 20; give --size"):
        create_study(tmp_path / "s", inputs, tmp_path / "captions.csv")
    study = create_study(tmp_path / "s", inputs, tmp_path / "captions.csv", size=16)
    sizes = {Image.open(path).size for path in (tmp_path / "s" / PICTURES).iterdir()}
    assert sizes == {(16, 16)} == {study.size}


def remove(inputs: Inputs, place: Path) -> None:
    (inputs["old"] / "c2.png").unlink()


def break_one(inputs: Inputs, place: Path) -> None:
    content = (inputs["old"] / "c2.png").read_bytes()
    (inputs["old"] / "c2.png").write_bytes(content[: len(content) // 2])


def no_caption(inputs: Inputs, place: Path) -> None:
    (place / "captions.csv").write_text("key,en\nc0,one\nc1,\n", encoding="utf-8")


def no_key(inputs: Inputs, place: Path) -> None:
    (place / "captions.csv").write_text("en\none\n", encoding="utf-8")


def twice(inputs: Inputs, place: Path) -> None:
    (place / "captions.csv").write_text("key,en\nc0,one\nc0,two\n", encoding="utf-8")


def empty(inputs: Inputs, place: Path) -> None:
    (place / "captions.csv").write_text("key,en\n", encoding="utf-8")


def no_captions(inputs: Inputs, place: Path) -> None:
    (place / "captions.csv").unlink()


def no_folder(inputs: Inputs, place: Path) -> None:
    inputs["old"] = place / "nowhere"


def one_model(inputs: Inputs, place: Path) -> None:
    for name in ("old", "plain", "sharp"):
        del inputs[name]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (remove, "unequal groups: old has no image named 'c2' in "),
        (break_one, "c2.png: cannot be shown, "),
        (no_caption, "row 2: no caption"),
        (no_key, "row 1: no key"),
        (twice, "the key 'c0' occurs twice"),
        (empty, "contains no captions"),
        (no_captions, "no such file"),
        (no_folder, "nowhere: no such folder"),
        (one_model, "at least two models"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    spoil: Callable[[Inputs, Path], None], said: str, inputs: Inputs, tmp_path: Path
) -> None:
    spoil(inputs, tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(CogViewError) as caught:
        create_study(tmp_path / "s", inputs, tmp_path / "captions.csv")
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert set(tmp_path.iterdir()) == before


def test_more_or_fewer_pictures_than_lines_are_unequal_groups(inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    with pytest.raises(CogViewError, match=r"unequal groups: real has 4 images in .*, there are 3 captions"):
        create_study(tmp_path / "s", inputs, tmp_path / "c.txt")


def test_a_study_is_never_overwritten(inputs: Inputs, tmp_path: Path) -> None:
    create_study(tmp_path / "s", inputs, tmp_path / "captions.csv")
    with pytest.raises(CogViewError, match="already exists"):
        create_study(tmp_path / "s", inputs, tmp_path / "captions.csv")


def test_a_damaged_folder_is_refused(make_store: Callable[..., Store]) -> None:
    store = make_store()
    next(iter((store.directory / PICTURES).iterdir())).unlink()
    with pytest.raises(CogViewError, match="missing; restore"):
        Store.open(store.directory)
    with pytest.raises(CogViewError, match="no study there"):
        Store.open(store.directory.parent)
