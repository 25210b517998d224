"""Foreign files: what is read, and what is one line instead."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogview.errors import CogViewError
from cogview.files import is_regular, open_regular, parse_json, read_bytes, readable
from cogview.lmdbs import Lmdb
from cogview.tensors import load_tensors


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_only_regular_files_are_opened(tmp_path: Path, make: object) -> None:
    make(tmp_path / "x")  # type: ignore[operator]
    assert not is_regular(tmp_path / "x")
    with pytest.raises(CogViewError, match="not a file"):
        open_regular(tmp_path / "x")


def test_a_file_is_read_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", 5) == b"12345"
    with pytest.raises(CogViewError, match="too large"):
        read_bytes(tmp_path / "x", 4)
    for name in ("a\0b", "x" * 300, "none"):
        assert not is_regular(tmp_path / name)
        with pytest.raises(CogViewError, match="cannot be read"):
            read_bytes(tmp_path / name, 5)


@pytest.mark.parametrize("number", [2**64 - 1, -(2**64) + 1, 0, -7])
def test_whole_numbers_of_64_bits_are_read(number: int) -> None:
    assert parse_json(f'{{"a": [{number}]}}', "here") == {"a": [number]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (str(2**64), "whole number"), ("9" * 5000, "whole number"), ('"\\ud800"', "surrogate"), ("{", "JSON"),
        ("[" * 100_000, "not valid JSON"), (b"\xff", "UTF-8"), ("[" + "[]," * 6_000_001 + "0]", "values"),
    ],
)  # fmt: skip
def test_other_json_is_one_line(text: str | bytes, said: str) -> None:
    with pytest.raises(CogViewError, match=said) as caught:
        parse_json(text, "here")
    assert str(caught.value).startswith("here: ") and "\n" not in str(caught.value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_names_that_are_text_stay(name: str) -> None:
    assert readable(name) == name


def test_other_names_are_taken_for_chinese_or_latin() -> None:
    assert readable(os.fsdecode("你好.png".encode("gbk"))) == "你好.png"
    for raw in (b"\xe9", b"\xff\xfe\x80.png", bytes(range(128, 256))):
        assert readable(os.fsdecode(raw)).encode()


# ------------------------------------------------------------------------------------------------- LMDB


def written(path: Path, seed: int = 0) -> dict[bytes, bytes]:
    """An LMDB of several levels with values in and outside of its pages, by LMDB's own library."""
    lmdb = pytest.importorskip("lmdb")
    chance = random.Random(seed)
    sizes = [0, 10, 300, 3000, 20_000]
    values = {
        str(chance.randrange(10**9)).encode(): chance.randbytes(chance.choice(sizes)) for _ in range(2000)
    }
    with lmdb.open(str(path), map_size=1 << 27) as environment, environment.begin(write=True) as put:
        for key, value in values.items():
            put.put(key, value)
    return values


def test_an_lmdb_is_read_as_its_own_library_reads_it(tmp_path: Path) -> None:
    values = written(tmp_path / "x")
    for path in (tmp_path / "x", tmp_path / "x" / "data.mdb"):
        found = Lmdb(path)
        assert len(found) == len(values)
        assert {key: found.get(key) for key in values} == values
        assert found.get(b"none") is None and found.get(b"") is None and found.get(b"\xff") is None


def test_a_damaged_lmdb_never_does_more_than_raise(tmp_path: Path) -> None:
    values, chance = written(tmp_path / "x"), random.Random(1)
    whole = (tmp_path / "x" / "data.mdb").read_bytes()
    with pytest.raises(CogViewError, match="truncated"):
        (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
        Lmdb(tmp_path / "cut")
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(40):
            at = chance.choice([chance.randrange(8192), chance.randrange(len(data))])
            data[at] = chance.randrange(256)
        (tmp_path / "y").write_bytes(data)
        try:
            found = Lmdb(tmp_path / "y")
            for key in list(values)[:50]:
                found.get(key)
        except CogViewError:
            continue


def test_a_header_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CogViewError, match="header"):
        load_tensors(tmp_path / "x")
