"""icetk's ids against recordings of the released code and its published vectors, and round trips."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.tokenizers.icetk import IceTokenizer
from cogview.tokenizers.text import TextTokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures/cogview2"
RECORDED = json.loads((FIXTURES / "icetk_text.json").read_text())
MODEL = FIXTURES / "ice_text_synthetic.model"
ice = IceTokenizer.from_file(MODEL)


@pytest.mark.parametrize("row", RECORDED["rows"], ids=lambda row: repr(row["text"][:20]))
def test_texts_have_the_recorded_ids(row: dict) -> None:
    assert ice.encode(row["text"]) == row["ids"]
    assert ice.tokens(row["text"]) == row["pieces"]
    assert ice.decode(row["ids"]) == row["decoded"]
    assert ice.encode(row["text"], keep_newlines=True) == row["ids_keep_linebreak"]
    assert ice.decode(row["ids_keep_linebreak"]) == row["decoded_keep"]


def test_names_and_ids_are_the_recorded_ones() -> None:
    assert len(ice) == RECORDED["num_tokens"]
    assert {name: ice.id(name) for name in RECORDED["getitem_str"]} == RECORDED["getitem_str"]
    assert {str(i): ice.token(int(i)) for i in RECORDED["getitem_int"]} == RECORDED["getitem_int"]


def test_before_they_are_appended_specials_are_unknown() -> None:
    plain = IceTokenizer.from_file(MODEL, specials=())
    assert plain.id("<start_of_image>") == plain.id("<unk>") == 20_000
    assert len(plain) == len(ice) - 3
    with pytest.raises(CogViewError, match="already"):
        IceTokenizer(ice.text)


def test_the_vocabulary_is_the_same_arrangement() -> None:
    for name in ice.specials:
        assert ice.vocabulary.control(name) == ice.id(name)
    assert ice.vocabulary.texts.start == ice.id("<unk>")
    assert ice.vocabulary.size == len(ice)


@given(st.integers(0, len(ice) - 1))
def test_every_id_is_that_of_its_name(token: int) -> None:
    assert ice.id(ice.token(token)) == token


spelt = st.text(st.sampled_from("abcdefgh HIW,.!?，。！　\t\n0123一只猫你好世界高清"), max_size=30)


@given(spelt)
def test_what_can_be_spelt_comes_back(text: str) -> None:
    ids = ice.encode(text)
    if ice.id("<unk>") not in ids:
        assert ice.decode(ids) == " ".join(unicodedata.normalize("NFKC", text).split())


@given(spelt)
def test_a_special_after_a_text_is_one_more_id(text: str) -> None:
    start = ice.id("<start_of_image>")
    alone = ice.encode(text)
    together = ice.encode(text.rstrip() + "<start_of_image>")
    assert together == (alone or [ice.id("▁")]) + [start]


@given(st.lists(st.sampled_from(["a cat", "猫", "the end."]), min_size=2, max_size=4))
def test_line_breaks_are_kept_when_asked(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert ice.decode(ice.encode(text, keep_newlines=True)).count("\n") == len(lines) - 1
    assert ice.encode(text) == ice.encode(" ".join(lines))


def test_a_text_is_english_where_every_published_id_says_so() -> None:
    for row in RECORDED["public_vectors_real_model"][:3]:
        english = row["text"].isascii()
        assert ice.language(row["ids"]) == ("en" if english else "zh")
    assert ice.language([83_822]) == "en" and ice.language([20_100, 83_823]) == "zh"


def test_what_is_no_text_is_an_error() -> None:
    with pytest.raises(CogViewError, match="image code"):
        ice.decode([20_006, 17])
    with pytest.raises(CogViewError, match="outside"):
        ice.decode([len(ice)])
    with pytest.raises(CogViewError, match="outside"):
        ice.token(len(ice))


def test_a_model_without_a_line_break_is_refused(tmp_path: Path) -> None:
    TextTokenizer.train(["a cat", "a dog on the hill"] * 9, 270).save(tmp_path / "text.model")
    with pytest.raises(CogViewError, match="no token '<n>'"):
        IceTokenizer.from_file(tmp_path / "text.model")
