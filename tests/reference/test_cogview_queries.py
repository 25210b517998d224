"""CogView's query language against the released tokenizer's recorded answers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.vocabulary import CONTROLS, Vocabulary
from tests.reference.cogview_queries import (
    BLANK,
    MAX_BLANKS,
    ImageSlot,
    decode_ids,
    fill,
    parse_query,
    wrap_codes,
)

RECORDED = json.loads((Path(__file__).parents[1] / "fixtures/cogview1/tokenizer.json").read_text())
V = Vocabulary.cogview()
PIECES = {
    " ".join(row["text"].split()): [token - V.texts.start for token in row["ids"]]
    for row in RECORDED["texts"]
}


def expected_text(query: str, ids: list[int]) -> dict[str, list[int]]:
    """The text of a recorded query, and the pieces that its ids hold for it."""
    words = [word for word in query.split() if word not in CONTROLS and not word.startswith("[MASK]")]
    return {" ".join(words): [token - V.texts.start for token in ids if token in V.texts]}


@pytest.mark.parametrize("row", RECORDED["queries"], ids=lambda row: row["query"])
def test_recorded_queries(row: dict) -> None:
    """The released model itself is not here: its recorded pieces stand in for it, text by text."""
    known = PIECES | expected_text(row["query"], row["ids"])
    assert parse_query(row["query"], V, lambda text: known[" ".join(text.split())]) == row["ids"]


def test_recorded_templates() -> None:
    row = RECORDED["text_code_template"]
    text = [V.control("[ROI1]"), *(V.piece(piece) for piece in PIECES[row["text"]])]
    ids = text + wrap_codes(range(1024), V)
    assert (ids[: len(row["head"])], ids[-3:], len(ids)) == (row["head"], row["tail"], row["length"])
    row = RECORDED["code2code"]
    ids = row["head"][:2] + wrap_codes(range(256), V) + wrap_codes(range(1024), V, index=2)
    assert (ids[: len(row["head"])], len(ids)) == (row["head"], row["length"])
    assert ids[261:263] == [V.control("[BASE]"), V.control("[BOI2]")]
    with pytest.raises(CogViewError, match="144 codes"):
        wrap_codes(range(144), V)


def letters(text: str) -> list[int]:
    return [ord(letter) % V.text_pieces for letter in text]


def test_pictures_are_left_to_the_caller() -> None:
    query = "[BASE] [BOI1] [Image]a.png [EOI1] [Image*2]/b/c.jpg [Image] x"
    parts = parse_query(query, V, letters)
    slots = [part for part in parts if isinstance(part, ImageSlot)]
    assert slots == [ImageSlot("a.png"), ImageSlot("/b/c.jpg", 2)]
    text = [V.piece(piece) for piece in letters("[Image] x")]
    pictures = {"a.png": [1, 2, 3], "/b/c.jpg": [4, 5, 6]}
    start = [V.control("[BASE]"), V.control("[BOI1]"), 1, 2, 3, V.control("[EOI1]"), 4, 5, BLANK]
    assert fill(parts, pictures.__getitem__, codes=3) == start + text
    with pytest.raises(CogViewError, match=r"a\.png: 3 codes, the query takes 1024"):
        fill(parts, pictures.__getitem__)


@pytest.mark.parametrize(("mask", "blanks"), [("[MASK]", 1), ("[MASK]*0", 0), ("[MASK]*30", 30)])
def test_blanks(mask: str, blanks: int) -> None:
    assert parse_query(mask, V, letters) == [BLANK] * blanks


@pytest.mark.parametrize("word", ["[MASK]*", "[MASK]*x", "[ROI1]猫", "[Image]", "[roi1]", "[MASK]*٣"])
def test_what_only_looks_like_a_mark_is_text(word: str) -> None:
    assert parse_query(word, V, letters) == [V.piece(piece) for piece in letters(word)]


def test_too_many_blanks() -> None:
    with pytest.raises(CogViewError, match=str(MAX_BLANKS)):
        parse_query(f"[MASK]*{MAX_BLANKS + 1}", V, letters)


def test_decoding() -> None:
    def decode(pieces: list[int]) -> str:
        return next(text for text, known in PIECES.items() if known == pieces)

    ids = parse_query("[ROI1] 一只猫 [BASE]", V, lambda text: PIECES[text])
    assert decode_ids(ids, V, decode).texts == RECORDED["decode_ids"]
    two = [*ids, V.control("[BOI1]"), 7, 8, V.control("[EOI1]"), V.control("[BOI2]"), 9]
    decoded = decode_ids(two, V, decode)
    assert decoded.images == [[7, 8], [9]]
    assert decoded.texts == [*RECORDED["decode_ids"], "[BOI1]", "[EOI1]", "[BOI2]"]
    for wrong in (BLANK, V.size, V.padded_size):
        with pytest.raises(CogViewError):
            decode_ids([wrong], V, decode)


tiny = Vocabulary(image_codes=50, text_pieces=200)
codes = st.lists(st.integers(0, 49), min_size=1, max_size=9)
pieces = st.lists(st.integers(97, 122), min_size=1, max_size=9)


@given(pieces, st.lists(codes, max_size=3))
def test_decoding_undoes_encoding(text: list[int], pictures: list[list[int]]) -> None:
    ids = [tiny.control("[ROI1]"), *map(tiny.piece, text)]
    for picture in pictures:
        ids += [tiny.control("[BOI1]"), *picture, tiny.control("[EOI1]")]
    decoded = decode_ids(ids, tiny, lambda ids: "".join(map(chr, ids)))
    assert decoded.images == pictures
    marks = ["[BOI1]", "[EOI1]"] * len(pictures)
    assert decoded.texts == ["[ROI1]", "".join(map(chr, text)), *marks]
