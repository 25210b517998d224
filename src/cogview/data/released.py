"""Reads the data files of the original CogView code without trusting them.

- :class:`CompactBinary`: a flat int32 file, rows of 64 text ids (-1 = none) and 1024 image codes;
- :class:`TokenLmdb`: LMDB of pickled sequences; :class:`TextCodeLmdb`: of pickled (text, codes) pairs
  (:mod:`cogview.lmdbs`, :mod:`cogview.pickles`).

Text ids in these files are ids of CogView's full vocabulary (token + 8192), not 0-based text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cogview import pickles
from cogview.errors import CogViewError
from cogview.files import is_regular
from cogview.lmdbs import Lmdb

TEXT_SLOTS = 64
IMAGE_CODES = 1024
MAX_ITEM = 1 << 20  # largest number of ids of one sample


@dataclass(frozen=True)
class ReleasedPair:
    """One sample: ``text``, ids of the full vocabulary (n,) or a raw string; ``codes`` (m,), both int64."""

    text: NDArray[np.int64] | str
    codes: NDArray[np.int64]


class CompactBinary:
    """Flat int32 rows of ``text_slots`` text ids and ``image_codes`` codes, memory-mapped.

    Raises CogViewError if the file's size is not a multiple of the row size.
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
        """Integers in an array, a list, or a list of rows (as codes may be stored), as (n,) int64."""
        array = value if isinstance(value, np.ndarray) else _array_of(value)
        if array is None or array.ndim == 0 or array.dtype.kind not in "iu" or array.size > MAX_ITEM:
            raise CogViewError(f"{self.path}, key {index}: not an array of whole numbers")
        return np.asarray(array).astype(np.int64).reshape(-1)


def _array_of(value: Any) -> NDArray[np.int64] | None:
    """A list of integers, or of rows of integers, as an array; None for anything else."""
    rows = value if isinstance(value, list | tuple) else []
    flat = [number for row in rows for number in (row if isinstance(row, list | tuple) else [row])]
    fits = all(type(number) is int and abs(number) < 1 << 63 for number in flat)
    return np.array(flat, dtype=np.int64) if flat and fits else None


class TokenLmdb(_Lmdb):
    """Pickled full sequences (released ``TokenizedDataset``): index to ids, (n,) int64."""

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
