"""The data files of the original CogView code, read without trusting them.

- :class:`CompactBinary`: a flat int32 file, a row = 64 text ids (-1 = none) and 1024 image codes;
- :class:`TokenLmdb`: LMDB of pickled sequences; :class:`TextCodeLmdb`: of pickled (text, codes) pairs
  (:mod:`cogview.lmdbs`, :mod:`cogview.pickles`).

Text ids in these files are ids of CogView's whole vocabulary (piece + 8192), not bare pieces. How the
released code turned them into training sequences is :func:`released_sequence`, how it repeated, shuffled
and split its data :class:`RandomMapping` and :func:`released_splits`.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogview import pickles
from cogview.errors import CogViewError
from cogview.lmdbs import Lmdb
from cogview.untrusted import is_regular
from cogview.vocabulary import Vocabulary

TEXT_SLOTS = 64
IMAGE_CODES = 1024
LENGTH = 1089
MAX_ITEM = 1 << 20  # ids of one sample


@dataclass(frozen=True)
class ReleasedPair:
    """One sample: ``text``, ids of the whole vocabulary (n,) or a raw string; ``codes`` (m,), both int64."""

    text: NDArray[np.int64] | str
    codes: NDArray[np.int64]


class CompactBinary:
    """Flat int32 rows of ``text_slots`` text ids and ``image_codes`` codes, memory-mapped.

    Raises CogViewError where the file's size is not a whole number of rows.
    """

    def __init__(
        self, path: str | Path, text_slots: int = TEXT_SLOTS, image_codes: int = IMAGE_CODES
    ) -> None:
        self.path, self.text_slots = Path(path), text_slots
        if not is_regular(self.path):
            raise CogViewError(f"{self.path} does not exist; give a file of the released compact format")
        size, row = self.path.stat().st_size, 4 * (text_slots + image_codes)
        if size == 0 or size % row:
            raise CogViewError(
                f"{self.path}: {size} bytes are not whole rows of {row}; the file is truncated or foreign"
            )
        self.rows = np.memmap(self.path, "<i4", "r", shape=(size // row, text_slots + image_codes))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> ReleasedPair:
        row = np.asarray(self.rows[index], dtype=np.int64)
        text = row[: self.text_slots]
        return ReleasedPair(text[text >= 0], row[self.text_slots :])


class _Lmdb:
    """An LMDB directory with the keys "length" and "0", "1", … (decimal, ASCII)."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._data = Lmdb(self.path)
        length = self._value("length")
        if not length.isdigit() or len(length) > 20 or int(length) > len(self._data):
            raise CogViewError(
                f"{self.path}: its length is {length[:20]!r}, it has {len(self._data):,} entries; "
                "the file is truncated or foreign"
            )
        self._length = int(length)

    def _value(self, key: str) -> bytes:
        value = self._data.get(key.encode())
        if value is None:
            raise CogViewError(f"{self.path}: key {key!r} is missing; the file is truncated or foreign")
        return value

    def __len__(self) -> int:
        return self._length

    def _read(self, index: int) -> Any:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return pickles.load(self._value(str(index)), f"{self.path}, key {index}")

    def _array(self, value: Any, index: int) -> NDArray[np.int64]:
        """Whole numbers, an array or a list of them (or of rows of them, as codes may be stored), as (n,)."""
        array = value if isinstance(value, np.ndarray) else _array_of(value)
        if array is None or array.ndim == 0 or array.dtype.kind not in "iu" or array.size > MAX_ITEM:
            raise CogViewError(f"{self.path}, key {index}: not an array of whole numbers")
        return np.asarray(array).astype(np.int64).reshape(-1)


def _array_of(value: Any) -> NDArray[np.int64] | None:
    """A list of numbers, or of rows of them, as an array; None for anything else."""
    rows = value if isinstance(value, list | tuple) else []
    flat = [number for row in rows for number in (row if isinstance(row, list | tuple) else [row])]
    fits = all(type(number) is int and abs(number) < 1 << 63 for number in flat)
    return np.array(flat, dtype=np.int64) if flat and fits else None


class TokenLmdb(_Lmdb):
    """Pickled whole sequences (released ``TokenizedDataset``): index to ids, (n,) int64."""

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        return self._array(self._read(index), index)


class TextCodeLmdb(_Lmdb):
    """Pickled (text, codes) pairs (released ``TextCodeDataset``)."""

    def __getitem__(self, index: int) -> ReleasedPair:
        value = self._read(index)
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise CogViewError(f"{self.path}, key {index}: not a pair of text and codes")
        text = value[0] if isinstance(value[0], str) else self._array(value[0], index)
        return ReleasedPair(text, self._array(value[1], index))


def released_sequence(
    text: NDArray[np.int64], codes: NDArray[np.int64], vocabulary: Vocabulary
) -> NDArray[np.int64]:
    """[ROI1] text [size] [BOI1] codes [EOI1], int64; ``text`` is ids of the whole vocabulary.

    The size token goes by the number of codes: [TINY] 8 x 8, [SMALL] 16 x 16, [BASE] 32 x 32, [BIG] 64 x 64.
    """
    sizes = {64: "[TINY]", 256: "[SMALL]", 1024: "[BASE]", 4096: "[BIG]"}
    if len(codes) not in sizes:
        raise CogViewError(f"{len(codes)} codes are none of CogView's pictures: {', '.join(map(str, sizes))}")
    control = vocabulary.control
    head = [control(sizes[len(codes)]), control("[BOI1]")]
    parts = [[control("[ROI1]")], text, head, codes, [control("[EOI1]")]]
    return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def released_padding(
    ids: NDArray[np.int64], vocabulary: Vocabulary, length: int = LENGTH
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad with [PAD] or cut to ``length``: (ids, mask), both (length,) int64; the mask is 1 on real tokens.

    As released, a long text costs the picture its last codes and [EOI1] (texts over 61 pieces at length
    1089).
    """
    kept = ids[:length]
    padded = np.full(length, vocabulary.control("[PAD]"), dtype=np.int64)
    padded[: len(kept)] = kept
    mask = np.zeros(length, dtype=np.int64)
    mask[: len(kept)] = 1
    return padded, mask


class RandomMapping:
    """The released pseudo-shuffle: ``factor`` * ``size`` indices, each mapped to some item, with repeats."""

    def __init__(self, size: int, factor: int = 200) -> None:
        self.size, self.factor = size, factor

    def __len__(self) -> int:
        return self.size * self.factor

    def __getitem__(self, index: int) -> int:
        stream = random.Random(index)
        seeds = [stream.randint(0, 2**32 - 1) for _ in range(16)]
        return int(np.random.RandomState(seeds).randint(self.size))


def released_repeats(path: str | Path) -> int:
    """How often the released code lists a file: 4 times with "t2i" in its path, 2 with "i2t", else once."""
    name = str(path)
    if "t2i" in name:
        return 4
    return 2 if "i2t" in name else 1


def split_fractions(text: str) -> tuple[float, float, float]:
    """The released ``--split`` argument ("949,50,1", "0.9") as fractions (train, validation, test)."""
    separator = next((mark for mark in (",", "/") if mark in text), None)
    try:
        values = [float(part) for part in (text.split(separator) if separator else [text])]
    except ValueError:
        values = []
    if separator is None and len(values) == 1:
        values.append(1.0 - values[0])
    values = [*values, 0.0, 0.0, 0.0][:3]
    total = sum(values)
    if total <= 0 or min(values) < 0:
        raise CogViewError(f"split {text!r}: give up to three parts, such as 949,50,1")
    return values[0] / total, values[1] / total, values[2] / total


def released_splits(size: int, text: str) -> list[tuple[int, int]]:
    """Ranges (first, past the last) of train, validation and test over ``size`` indices."""
    ends = [round(size * end) for end in itertools.accumulate(split_fractions(text))]
    return list(itertools.pairwise([0, *ends]))
