"""The released CogView data formats against what the released code itself read from them."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from cogview import pickles
from cogview.data.released import CompactBinary, TextCodeLmdb, TokenLmdb
from cogview.errors import CogViewError
from cogview.vocabulary import Vocabulary
from tests.reference.cogview_data import (
    RandomMapping,
    released_padding,
    released_repeats,
    released_sequence,
    released_splits,
    released_tensor,
    split_fractions,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"


@pytest.mark.parametrize(
    ("name", "file", "size"),
    [
        ("size32", "prep_input.png", 32),
        ("size64", "prep_input.png", 64),
        ("size32_rgba", "prep_input_rgba.png", 32),
    ],
)
def test_released_preprocessing_is_exact(name: str, file: str, size: int) -> None:
    expected = load_file(FIXTURES / "preprocess_image.safetensors")[name]
    np.testing.assert_array_equal(released_tensor(Image.open(FIXTURES / file), size), expected)


def test_compact_binary_gives_the_released_sequences() -> None:
    expected = load_file(FIXTURES / "data_compact_bin.safetensors")
    vocabulary = Vocabulary.cogview()
    data = CompactBinary(FIXTURES / "compact.bin")
    assert [len(data[i].text) for i in range(len(data))] == [0, 5, 61, 64]
    for number in range(len(data)):
        ids = released_sequence(np.asarray(data[number].text), data[number].codes, vocabulary)
        padded, mask = released_padding(ids, vocabulary)
        np.testing.assert_array_equal(padded, expected["text"][number])
        np.testing.assert_array_equal(mask, expected["loss_mask"][number])


def test_lmdb_gives_the_released_sequences() -> None:
    expected = load_file(FIXTURES / "data_lmdb.safetensors")
    vocabulary = Vocabulary.cogview()
    tokens, pairs = TokenLmdb(FIXTURES / "tok.lmdb"), TextCodeLmdb(FIXTURES / "tc.lmdb")
    assert len(tokens) == len(pairs) == 2
    for number in range(2):
        padded, _ = released_padding(tokens[number], vocabulary)
        np.testing.assert_array_equal(padded, expected[f"tok.{number}.text"])
    text, codes = pairs[1].text, pairs[1].codes
    padded, mask = released_padding(released_sequence(np.asarray(text), codes, vocabulary), vocabulary)
    np.testing.assert_array_equal(padded, expected["tc.1.text"])
    np.testing.assert_array_equal(mask, expected["tc.1.loss_mask"])
    assert pairs[0].text == "一只猫"
    np.testing.assert_array_equal(pairs[0].codes, expected["tc.0.text"][5 : 5 + 1024])


def test_random_mapping_and_splits_are_the_released_ones() -> None:
    facts = json.loads((FIXTURES / "random_mapping.json").read_text())
    mapping = RandomMapping(facts["n"])
    assert len(mapping) == facts["length"]
    assert [mapping[index] for index in range(32)] == facts["mapped_first32"]
    assert [list(part) for part in released_splits(facts["length"], "949,50,1")] == facts["split_949_50_1"]
    for text, fractions in facts["split_arg"].items():
        assert list(split_fractions(text)) == fractions


def test_repeats_go_by_the_path() -> None:
    assert [released_repeats(name) for name in ("a/t2i.lmdb", "i2t/x.bin", "plain.bin")] == [4, 2, 1]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize("value", [Evil(), (np.arange(3), Evil()), np.array([Evil()]), np.array(["x", None])])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_with_more_than_arrays_are_refused(
    value: object, protocol: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CogViewError, match="here: "):
        pickles.load(pickle.dumps(value, protocol), "here")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("core", [b"numpy.core", b"numpy._core"])
def test_arrays_of_old_and_new_numpy_are_read(protocol: int, core: bytes) -> None:
    array = np.arange(7, dtype=np.int32)
    data = pickle.dumps(("text", array), protocol)
    if protocol < 4:  # module names without a length prefix can be exchanged in place
        data = data.replace(b"numpy._core", core)
    text, back = pickles.load(data, "here")
    assert text == "text"
    np.testing.assert_array_equal(back, array)


def test_damaged_files_give_one_line(tmp_path: Path) -> None:
    cut = tmp_path / "cut.bin"
    cut.write_bytes((FIXTURES / "compact.bin").read_bytes()[:-3])
    with pytest.raises(CogViewError, match="not whole rows"):
        CompactBinary(cut)
    with pytest.raises(CogViewError, match="does not exist"):
        CompactBinary(tmp_path / "none.bin")
    with pytest.raises(CogViewError, match=r"none\.lmdb.*cannot be read"):
        TokenLmdb(tmp_path / "none.lmdb")
    with pytest.raises(CogViewError, match="cut: not a pickle"):
        pickles.load(pickle.dumps(np.arange(100))[:50], "cut")
    with pytest.raises(CogViewError, match="not a pair"):
        TextCodeLmdb(FIXTURES / "tok.lmdb")[0]
