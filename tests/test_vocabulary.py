"""The id space against the released tokenizer's own numbers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.vocabulary import CONTROLS, Vocabulary

RECORDED = json.loads((Path(__file__).parent / "fixtures/cogview1/tokenizer.json").read_text())


def test_cogview_has_the_released_ids() -> None:
    vocabulary = Vocabulary.cogview()
    assert {name: vocabulary.control(name) for name in CONTROLS} == RECORDED["command_tokens"]
    sizes = RECORDED["vocab"]
    assert (vocabulary.image_codes, vocabulary.text_pieces) == (sizes["image"], sizes["text"])
    assert (vocabulary.size, vocabulary.padded_size) == (sizes["total"], sizes["padded128"])


@pytest.mark.parametrize(("shards", "rows"), [(1, 58240), (2, 58368), (4, 58368), (8, 58368)])
def test_padding_grows_with_model_parallelism(shards: int, rows: int) -> None:
    assert Vocabulary.cogview().padded_for(shards) == rows


def test_cogview2_has_the_released_ids() -> None:
    vocabulary = Vocabulary.cogview2()
    assert vocabulary.texts == range(20_000, 150_000)
    names = ("<start_of_image>", "<start_of_english>", "<start_of_chinese>")
    assert [vocabulary.control(name) for name in names] == [150_000, 150_001, 150_002]
    assert vocabulary.padded_size == 150_010


@given(st.integers(1, 40), st.integers(0, 40), st.integers(1, 64))
def test_every_id_has_one_kind_and_they_come_in_order(images: int, pieces: int, multiple: int) -> None:
    vocabulary = Vocabulary(
        image_codes=images, text_pieces=pieces, controls=("[A]", "[B]"), multiple=multiple
    )
    kinds = [vocabulary.kind(token) for token in range(vocabulary.padded_size)]
    padding = -(images + pieces + 2) % multiple
    assert kinds == ["image"] * images + ["text"] * pieces + ["control"] * 2 + ["padding"] * padding
    assert [vocabulary.piece(piece) for piece in range(pieces)] == list(vocabulary.texts)
    assert [vocabulary.name(token) for token in vocabulary.control_ids] == ["[A]", "[B]"]


def test_what_is_not_there_is_an_error() -> None:
    vocabulary = Vocabulary(image_codes=4, text_pieces=3, controls=("[A]",), multiple=1)
    for call in (
        lambda: vocabulary.control("[BOI1]"),
        lambda: vocabulary.piece(3),
        lambda: vocabulary.piece(-1),
        lambda: vocabulary.kind(8),
        lambda: vocabulary.kind(-1),
        lambda: vocabulary.name(6),
    ):
        with pytest.raises(CogViewError):
            call()
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(image_codes=4, text_pieces=3, controls=("[A]", "[A]"))
