"""CogView's own data files become token shards with the same ids."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from cogview.data.convert import Conversion, convert
from cogview.data.released import CompactBinary
from cogview.errors import CogViewError
from cogview.vocabulary import Vocabulary
from tests.reference.cogview_data import released_sequence

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cogview1"
MEANING = Conversion(Vocabulary.cogview(), ("1" * 16, "2" * 64))


def write_compact(path: Path, rows: int = 9, codes: int = 1024) -> list[tuple[list[int], list[int]]]:
    rng, pairs = np.random.default_rng(0), []
    table = np.full((rows, 64 + codes), -1, "<i4")
    for number in range(rows):
        text = rng.integers(8192, 58192, rng.integers(1, 64))
        table[number, : len(text)] = text
        table[number, 64:] = rng.integers(0, 8192, codes)
        pairs.append(((text - 8192).tolist(), table[number, 64:].tolist()))
    table.tofile(path)
    return pairs


def test_a_flat_file(tmp_path: Path) -> None:
    pairs = write_compact(tmp_path / "birds.bin")
    shards = convert(tmp_path / "birds.bin", tmp_path / "out", MEANING, validation=0.3)
    assert shards.index.grid == (32, 32) and shards.index.preprocessing.size == 256
    assert [(list(item.captions[0].pieces), item.codes.tolist()) for item in shards] == pairs
    assert set(shards.splits) == {"train", "val"} and shards.sources == ("birds",)
    shards.require("1" * 16, "2" * 64)


@pytest.mark.parametrize("kind", ["pairs", "texts", "sequences"])
def test_both_kinds_of_lmdb(kind: str, tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    pairs = write_compact(tmp_path / "x.bin", rows=4)
    data, vocabulary = CompactBinary(tmp_path / "x.bin"), Vocabulary.cogview()
    with (
        lmdb.open(str(tmp_path / "x_lmdb"), map_size=1 << 24) as environment,
        environment.begin(write=True) as file,
    ):
        file.put(b"length", b"4")
        for number in range(4):
            pair = data[number]
            value: object = (pair.text, pair.codes)
            if kind == "texts":
                value = (f"text {number}", pair.codes)
            elif kind == "sequences":
                assert not isinstance(pair.text, str)
                value = released_sequence(pair.text, pair.codes, vocabulary)
            file.put(str(number).encode(), pickle.dumps(value))
    meaning = Conversion(vocabulary, ("1" * 16, "2" * 64), encode=lambda text: [int(text.split()[1])])
    shards = convert(tmp_path / "x_lmdb", tmp_path / "out", meaning)
    texts = [[number] for number in range(4)] if kind == "texts" else [text for text, _ in pairs]
    assert [list(item.captions[0].pieces) for item in shards] == texts
    assert [item.codes.tolist() for item in shards] == [codes for _, codes in pairs]


def test_foreign_data_are_refused(tmp_path: Path) -> None:
    write_compact(tmp_path / "x.bin")
    with pytest.raises(CogViewError, match="of another model"):
        convert(
            tmp_path / "x.bin",
            tmp_path / "out",
            Conversion(Vocabulary(image_codes=64, text_pieces=9), ("", "")),
        )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(CogViewError, match="not empty"):
        convert(tmp_path / "x.bin", tmp_path / "full", MEANING)
    (tmp_path / "x.bin").write_bytes(b"123")
    with pytest.raises(CogViewError, match="truncated or foreign"):
        convert(tmp_path / "x.bin", tmp_path / "out2", MEANING)
