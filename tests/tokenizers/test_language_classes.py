"""Vocabularies sorted by language, from the command line to captions that are kept to one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import cogview
from cogview.cli.app import main
from cogview.data.shards import read_index
from cogview.errors import CogViewError
from cogview.generation.languages import allowed_tokens
from cogview.tokenizers.language_classes import CLASSES, class_of, class_runs, is_chinese, sorted_by_class
from cogview.tokenizers.text import TextTokenizer, join_fields, split_fields
from tests.tokenizers.test_text import CHINESE, ENGLISH, corpus


@pytest.fixture(scope="module")
def plain() -> TextTokenizer:
    return TextTokenizer.train(corpus(), 380)


@pytest.fixture(scope="module")
def sorted_(plain: TextTokenizer) -> TextTokenizer:
    return sorted_by_class(plain)


@pytest.mark.parametrize(
    ("piece", "name"),
    [
        ("▁cat", "en"), ("é", "en"), ("猫", "zh"), ("T恤", "zh"), ("，", "common"), ("▁", "common"),
        ("42", "common"), ("<0x0A>", "rare"), ("Ж", "rare"), ("😀", "common"), ("<unk>", "rare"),
    ],
)  # fmt: skip
def test_classes(piece: str, name: str) -> None:
    assert class_of(piece) == name


def test_one_place_says_which_characters_are_chinese() -> None:
    """Punctuation that only Chinese uses is none; characters of the supplementary planes are some."""
    assert not is_chinese("a、b，c。「x」") and all(map(is_chinese, "猫々〇㐀龘豈𠀀𰻝"))
    source = Path(cogview.__file__).parent
    ranges = re.compile("9fff|\u9fff", re.IGNORECASE)
    places = {path.name for path in source.rglob("*.py") if ranges.search(path.read_text("utf-8"))}
    assert places == {"vocabulary.py"}


def test_the_same_pieces_stand_in_runs(plain: TextTokenizer, sorted_: TextTokenizer) -> None:
    def written(text: TextTokenizer) -> list[str]:
        return [text.piece(number) for number in range(text.pieces)]

    assert sorted(written(plain)) == sorted(written(sorted_)) and sorted_.piece(0) == "<unk>"
    runs = class_runs(sorted_)
    assert class_runs(plain) == ()
    ends = [end for _, _, end in runs]
    assert [name for name, _, _ in runs] == list(CLASSES) and ends[-1] == 380
    assert [first for _, first, _ in runs] == [1, *ends[:-1]]
    for name, first, end in runs:
        assert all(class_of(sorted_.piece(number)) == name for number in range(first, end))
    assert sorted_by_class(sorted_).model == sorted_.model


@given(st.lists(st.sampled_from(ENGLISH + CHINESE + ("龘", "😀", "Ж")), max_size=12).map(" ".join))
def test_texts_are_cut_as_before(plain: TextTokenizer, sorted_: TextTokenizer, text: str) -> None:
    assert sorted_.split(text) == plain.split(text)
    assert sorted_.decode(sorted_.encode(text)) == plain.decode(plain.encode(text))


def test_messages_come_apart_and_together(plain: TextTokenizer) -> None:
    fields = split_fields(plain.model)
    assert join_fields(fields) == plain.model
    assert sum(number == 1 for number, _ in fields) == 380
    for damaged in (plain.model[:-1], b"\x08\x01", b"\x0a"):
        with pytest.raises(CogViewError, match="damaged"):
            split_fields(damaged)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures with sentences of both languages, many a caption."""
    (tmp_path / "pictures").mkdir()
    texts = corpus(60)
    for number in range(8):
        path = tmp_path / "pictures" / f"{number}.png"
        Image.new("RGB", (72, 72), ("red", "blue")[number % 2]).save(path)
        path.with_suffix(".txt").write_text("\n".join(texts[number::8]), "utf-8")
    return tmp_path / "pictures"


def test_a_language_is_a_range_of_ids(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Learnt, built and asked for: what may come in Chinese is what the order says, as without one."""
    model = tmp_path / "text.model"
    words = ["data", "text-tokenizer", str(pictures), str(model), "--pieces", "330", "--classes"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert said.startswith("330 pieces") and "common " in said and "rare 256" in said
    out = tmp_path / "tokens"
    built = ["data", "build", str(pictures), str(out), "--tokenizers", "pictogram", "--workers", "0"]
    assert main([*built, "--text-tokenizer", str(model)]) == 0
    vocabulary, text = read_index(out).vocabulary, TextTokenizer.from_file(model)
    assert vocabulary.languages == class_runs(text) and vocabulary.text_pieces == 330
    unsorted = vocabulary.model_copy(update={"languages": ()})
    for language in ("en", "zh"):
        allowed = allowed_tokens(text, vocabulary, language)
        assert np.array_equal(allowed, allowed_tokens(text, unsorted, language))
    assert main([*built[:3], str(tmp_path / "other"), *built[4:]]) == 0
    assert read_index(tmp_path / "other").vocabulary.languages == ()


def test_cogviews_kind_from_the_command_line(pictures: Path, tmp_path: Path) -> None:
    """BPE without bytes: merges make the pieces, and what is not covered is unknown."""
    model = tmp_path / "bpe.model"
    words = ["data", "text-tokenizer", str(pictures), str(model), "--pieces", "90", "--algorithm", "bpe"]
    assert main([*words, "--no-byte-fallback", "--coverage", "1"]) == 0
    text = TextTokenizer.from_file(model)
    expected = TextTokenizer.train(
        _captions(pictures), 90, algorithm="bpe", byte_fallback=False, character_coverage=1.0
    )
    assert text.model == expected.model
    assert text.unknown in text.encode("龘") and text.piece_id("<0x0A>") is None


def _captions(pictures: Path) -> list[str]:
    files = sorted(pictures.glob("*.txt"))
    return [line for file in files for line in file.read_text("utf-8").splitlines()]
