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


def test_cogview2_keeps_its_languages_apart() -> None:
    """Every id is in one range; the ids that the real tokenizer is known to give are where they belong."""
    vocabulary = Vocabulary.cogview2()
    ranges = [vocabulary.language(name) for name in ("common", "en", "zh", "rare")]
    assert [token for part in ranges for token in (part.start, part.stop - 1)] == [
        *(20_000, 20_099, 20_100, 83_822),
        *(83_823, 145_652, 145_653, 149_999),
    ]
    path = Path(__file__).parent / "fixtures/cogview2/icetk_text.json"
    hello, ni_hao, stanford, single = json.loads(path.read_text())["public_vectors_real_model"]
    for row in (hello, stanford):
        assert all(any(token in part for part in vocabulary.language_ids("en")) for token in row["ids"][:-1])
    assert not any(token in vocabulary.language("zh") for token in hello["ids"])
    assert 94_874 in ni_hao["ids"] and 94_874 in vocabulary.language("zh")
    where = {"。": "zh", "…": "rare", "α": "rare"}
    for piece, token in single["single_ids"].items():
        assert token in vocabulary.language(where.get(piece, "common"))


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ((("a", 2, 1),), "in order"),
        ((("a", 0, 2), ("b", 1, 3)), "in order"),
        ((("a", 0, 9),), "in order"),
        ((("a", 0, 1), ("a", 1, 2)), "twice"),
    ],
)
def test_languages_that_overlap_are_refused(
    languages: tuple[tuple[str, int, int], ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Vocabulary(image_codes=4, text_pieces=3, languages=languages)


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
        lambda: vocabulary.language("en"),
        lambda: vocabulary.language_ids("en"),
    ):
        with pytest.raises(CogViewError):
            call()
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(image_codes=4, text_pieces=3, controls=("[A]", "[A]"))
