"""Token shards: what goes in comes out, and damage is noticed."""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogview.data.samples import KINDS
from cogview.data.shards import ShardLayout, TokenItem, TokenShards, smallest_type, write_shard
from cogview.errors import CogViewError

from .conftest import PIECES, make_items, write_data_set


def assert_same(found: TokenItem, expected: TokenItem, languages: tuple[str, ...]) -> None:
    """Equal but for the captions' order, which is by language, then kind."""
    assert (found.key, found.source, found.split) == (expected.key, expected.source, expected.split)
    np.testing.assert_array_equal(found.codes, expected.codes)
    by_tag = sorted(expected.captions, key=lambda c: (languages.index(c.language), KINDS.index(c.kind)))
    assert list(found.captions) == by_tag


@settings(max_examples=8, deadline=None)
@given(count=st.integers(1, 30), seed=st.integers(0, 2**32), shard_items=st.integers(1, 12))
def test_what_goes_in_comes_out(count: int, seed: int, shard_items: int) -> None:
    items = make_items(count, seed)
    with tempfile.TemporaryDirectory() as directory:
        shards = write_data_set(Path(directory), items, shard_items)
        assert len(shards) == count
        for found, expected in zip(shards, items, strict=True):
            assert_same(found, expected, shards.languages)


def test_codes_of_any_selection(shards: TokenShards, items: list[TokenItem]) -> None:
    numbers = [102, 0, 55, 55, 6, 7]
    expected = np.stack([items[number].codes for number in numbers])
    found = shards.codes(numbers)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_select_by_split_and_source(shards: TokenShards, items: list[TokenItem]) -> None:
    expected = [i for i, item in enumerate(items) if item.split == "train" and item.source == "b"]
    assert shards.select(["train"], ["b"]).tolist() == expected
    assert shards.select().tolist() == list(range(len(items)))
    with pytest.raises(CogViewError, match="has no 'test'; it has train, val"):
        shards.select(["test"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (1, "uint8"),
        (256, "uint8"),
        (257, "uint16"),
        (65536, "uint16"),
        (65537, "uint32"),
        (130_000, "uint32"),
    ],
)
def test_smallest_type_holds_every_id(values: int, expected: str) -> None:
    assert smallest_type(values) == expected
    assert np.iinfo(smallest_type(values)).max >= values - 1


def test_files_have_the_stated_types(shards: TokenShards) -> None:
    entry = shards.index.shards[0]
    assert entry.files["codes"].bytes == entry.items * 6 * 2  # 300 codes need two bytes
    assert entry.files["texts"].bytes == entry.pieces * 4  # 70,000 pieces need four
    assert (shards.index.codes_type, shards.index.texts_type) == ("uint16", "uint32")
    assert PIECES > 1 << 16


@pytest.fixture
def copy(shards: TokenShards, tmp_path: Path) -> Path:
    """A copy of the data set that may be damaged."""
    return Path(shutil.copytree(shards.directory, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["codes", "texts", "captions", "items", "keys"])
def test_truncated_and_missing_files_are_named(copy: Path, name: str) -> None:
    path = copy / "shard-00007" / f"{name}.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CogViewError, match=rf"shard-00007/{name}\.bin is truncated"):
        TokenShards(copy)
    path.write_bytes(data + b"\0")
    with pytest.raises(CogViewError, match="too long"):
        TokenShards(copy)
    path.unlink()
    with pytest.raises(CogViewError, match="is missing"):
        TokenShards(copy)


def test_a_flipped_bit_is_found_by_the_hashes(copy: Path) -> None:
    path = copy / "shard-00014" / "codes.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(bytes(data))
    TokenShards(copy)
    with pytest.raises(CogViewError, match=r"shard-00014/codes\.bin is damaged"):
        TokenShards(copy, hashes=True)


def test_a_foreign_or_missing_index_is_one_line(copy: Path, tmp_path: Path) -> None:
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps({**index, "version": 9}))
    with pytest.raises(CogViewError, match="version"):
        TokenShards(copy)
    (copy / "index.json").write_text(json.dumps({**index, "extra": 1}))
    with pytest.raises(CogViewError, match="extra"):
        TokenShards(copy)
    (copy / "index.json").write_text("not json")
    with pytest.raises(CogViewError, match=r"index\.json") as caught:
        TokenShards(copy)
    assert "\n" not in str(caught.value)
    with pytest.raises(CogViewError, match="no token shards"):
        TokenShards(tmp_path / "nowhere")


@pytest.mark.parametrize("field", ["sources", "splits"])
def test_an_index_that_names_things_in_another_order_is_refused(copy: Path, field: str) -> None:
    """Else every item would be of another source or split than it is."""
    index = json.loads((copy / "index.json").read_text("utf-8"))
    names = list(index[field])
    assert len(set(index[field].values())) > 1
    index[field] = {name: index[field][name] for name in names[::-1]}
    (copy / "index.json").write_text(json.dumps(index), "utf-8")
    with pytest.raises(CogViewError, match="in another order of"):
        TokenShards(copy)


def test_other_tokenizers_are_refused(shards: TokenShards) -> None:
    shards.require(image_tokenizer="1" * 16, text_tokenizer="2" * 64)
    with pytest.raises(CogViewError, match="another image tokenizer"):
        shards.require(image_tokenizer="3" * 16)
    with pytest.raises(CogViewError, match="another text tokenizer"):
        shards.require(text_tokenizer="3" * 64)


def test_a_shard_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    layout = ShardLayout((2, 3), "uint16", "uint32", ("en", "zh"), ("a", "b"), ("train", "val"))
    items = make_items(3)
    write_shard(tmp_path, "one", items, layout)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    bad = [TokenItem("a\nb", items[0].codes, items[0].captions, "a", "train")]
    with pytest.raises(CogViewError, match="line break"):
        write_shard(tmp_path, "two", bad, layout)
    assert not (tmp_path / "two").exists()
