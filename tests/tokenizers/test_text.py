"""The text tokenizer: icetk's recorded behaviour, round trips on a model trained here, and bad input."""

import json
import pickle
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.checkpoints.bundle import ModelBundle
from cogview.errors import CogViewError
from cogview.tokenizers.text import MAX_MODEL_BYTES, TextTokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures/cogview2"
RECORDED = json.loads((FIXTURES / "icetk_text.json").read_text())
SPECIALS = ("<start_of_image>", "<start_of_english>", "<start_of_chinese>")
OFFSET = 20_000  # icetk's text pieces come after its image codes

ENGLISH = (
    "red",
    "blue",
    "a",
    "cat",
    "dog",
    "monster",
    "with",
    "round",
    "eyes",
    "on",
    "the",
    "hill",
    "smiling",
)
CHINESE = ("红色", "蓝色", "的", "猫", "狗", "小怪物", "圆眼睛", "微笑", "背景", "一只", "山上", "，", "。")


def corpus(size: int = 400, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    english = [" ".join(draw.choices(ENGLISH, k=draw.randint(1, 6))) for _ in range(size)]
    return english + ["".join(draw.choices(CHINESE, k=draw.randint(1, 6))) for _ in range(size)]


@pytest.fixture(scope="module")
def trained() -> TextTokenizer:
    return TextTokenizer.train(corpus(), 380)


@pytest.fixture(scope="module")
def icetk() -> TextTokenizer:
    plain = TextTokenizer.from_file(FIXTURES / "ice_text_synthetic.model", newline="<n>")
    return plain.extended(SPECIALS)


@pytest.mark.parametrize("row", RECORDED["rows"], ids=lambda row: repr(row["text"][:20]))
def test_icetk_encodes_and_decodes_as_recorded(icetk: TextTokenizer, row: dict) -> None:
    pieces = [token - OFFSET for token in row["ids"]]
    kept = [token - OFFSET for token in row["ids_keep_linebreak"]]
    assert icetk.encode(row["text"]) == pieces
    assert icetk.encode(row["text"], keep_newlines=True) == kept
    assert icetk.decode(pieces) == row["decoded"]
    assert icetk.decode(kept) == row["decoded_keep"]


def test_icetk_knows_its_pieces(icetk: TextTokenizer) -> None:
    assert icetk.pieces == RECORDED["num_text_tokens"]
    for piece, token in RECORDED["getitem_str"].items():
        if token >= OFFSET and piece != "notapiece":
            assert icetk.piece_id(piece) == token - OFFSET
    for token, piece in RECORDED["getitem_int"].items():
        if int(token) >= OFFSET:
            assert icetk.piece(int(token) - OFFSET) == piece
    assert icetk.piece_id("notapiece") is None
    with pytest.raises(CogViewError, match="already"):
        icetk.extended(["<start_of_image>"])


def plain(text: str) -> str:
    """What is left of a text after normalisation: no full-width forms, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


letters = st.sampled_from("abcdz ABZ019,.!?，。！？、（）：；　　 红蓝色的猫狗小怪物圆眼睛龘😀é")
sentences = st.text(letters, max_size=40) | st.lists(st.sampled_from(ENGLISH + CHINESE)).map(" ".join)


@given(text=sentences)
def test_any_text_comes_back(trained: TextTokenizer, text: str) -> None:
    """Byte fallback: what the training texts never held is spelt, not lost."""
    pieces = trained.encode(text)
    assert all(0 <= piece < trained.pieces for piece in pieces)
    assert trained.unknown not in pieces
    assert trained.decode(pieces) == plain(text)


@given(text=sentences)
def test_full_width_and_plain_forms_are_the_same(trained: TextTokenizer, text: str) -> None:
    assert trained.encode(text) == trained.encode(plain(text))


def test_comma_of_both_scripts(trained: TextTokenizer) -> None:
    assert trained.encode("红色，猫") == trained.encode("红色,猫")
    assert trained.encode("a cat，a dog") == trained.encode("a cat,a dog")


def test_training_repeats_and_leaves_no_trace_of_the_machine(tmp_path: Path, trained: TextTokenizer) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(corpus()), encoding="utf-8")
    again = TextTokenizer.train(path, 380)
    assert again.model == trained.model
    assert str(tmp_path).encode() not in again.model
    assert TextTokenizer.train(corpus(seed=1), 380).fingerprint != trained.fingerprint


def test_training_learns_the_words(trained: TextTokenizer) -> None:
    assert trained.pieces == 380
    words = sum(len(trained.encode(word)) for word in ENGLISH) / len(ENGLISH)
    letters = sum(map(len, ENGLISH)) / len(ENGLISH)
    assert words < letters / 2


def test_options_of_training() -> None:
    texts = [text.upper() if text.isascii() else text for text in corpus()]
    folded = TextTokenizer.train(texts, 380, normalization="nmt_nfkc_cf")
    assert folded.encode("A CAT") == folded.encode("a cat")
    marked = TextTokenizer.train(corpus(), 380, user_defined=["<n>", "小怪物圆眼睛"])
    ids = marked.encode("一只小怪物圆眼睛<n>red")
    assert {marked.piece_id("<n>"), marked.piece_id("小怪物圆眼睛")} <= set(ids)
    coarse = TextTokenizer.train(corpus(), 90, byte_fallback=False, algorithm="bpe")
    assert coarse.unknown in coarse.encode("龘")


def test_save_load_and_pickle(tmp_path: Path, trained: TextTokenizer) -> None:
    trained.save(tmp_path / "text.model")
    read = TextTokenizer.from_file(tmp_path / "text.model")
    assert (read.fingerprint, read.pieces) == (trained.fingerprint, trained.pieces)
    assert [path.name for path in tmp_path.iterdir()] == ["text.model"]
    sent = pickle.loads(pickle.dumps(trained))
    assert sent.encode("红色的猫") == trained.encode("红色的猫")


def test_bad_models_are_one_line(tmp_path: Path, trained: TextTokenizer) -> None:
    bad = {
        "empty.model": b"",
        "text.model": b"this is no model" * 20,
        "cut.model": trained.model[: len(trained.model) // 2],
        "cut1.model": trained.model[:-1],
        "huge.model": bytes(MAX_MODEL_BYTES + 1),
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CogViewError, match=name):
            TextTokenizer.from_file(tmp_path / name)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(CogViewError, match="cannot be read"):
            TextTokenizer.from_file(path)
    with pytest.raises(CogViewError, match="no token '<n>'"):
        TextTokenizer(trained.model, newline="<n>")


def test_bad_input_is_one_line(tmp_path: Path, trained: TextTokenizer) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n" * 100)
    for call in (
        lambda: trained.decode([trained.pieces]),
        lambda: trained.decode([-1]),
        lambda: trained.piece(trained.pieces),
        lambda: trained.encode("half \ud800"),
        lambda: TextTokenizer.train([], 300),
        lambda: TextTokenizer.train(["a b"], 5000),
        lambda: TextTokenizer.train(corpus(), 10),
        lambda: TextTokenizer.train(["a", "\ud800"] * 40, 300),
        lambda: TextTokenizer.train(tmp_path / "absent.txt", 300),
        lambda: TextTokenizer.train(tmp_path / "latin.txt", 300),
    ):
        with pytest.raises(CogViewError) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_words_of_other_languages_are_unfamiliar() -> None:
    """Of the default model, which was trained on Chinese and English captions of drawings."""
    tokenizer = ModelBundle.find("pictogram").text_tokenizer()
    assert tokenizer.unfamiliar("a red apple with two leaves, 一只蓝色的猫") == []
    assert tokenizer.unfamiliar("un chat rouge") == ["rouge"]
    assert tokenizer.unfamiliar("красная кошка") == ["красная", "кошка"]
    assert tokenizer.unfamiliar("赤いリンゴ, 12 🐱") == ["赤いリンゴ"]


def test_too_many_pieces_and_too_few_are_told_in_numbers() -> None:
    texts = ["a red circle", "a blue square"] * 20
    with pytest.raises(
        CogViewError, match=r"^text tokenizer of 9000 pieces: the texts suffice for \d+ at most$"
    ):
        TextTokenizer.train(texts, pieces=9000)
    with pytest.raises(CogViewError, match=r"^text tokenizer of 5 pieces: their characters alone need \d+$"):
        TextTokenizer.train(texts, pieces=5, byte_fallback=False)
