"""A read-only LMDB reader without memory mapping: a damaged or hostile file is an error, never a crash.

The LMDB library maps the file and trusts its contents: a truncated file kills the process (SIGBUS). The
original CogView's data are only looked up by key, which is a descent of a B+ tree of pages; every page number
and offset is checked against the file's size first. Reads little-endian files of LMDB 0.9 (data version 1).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from cogview.errors import CogViewError
from cogview.files import check_regular, open_regular

DATA = "data.mdb"
MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER, NODE = 16, 8  # bytes before a page's content, and before a node's key
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8  # page flags
BIG, SUB, MULTIPLE = 1, 2, 4  # node flags
NOWHERE = (1 << 64) - 1
MAX_DEPTH = 32
MAX_VALUE = 64 << 20
_META = struct.Struct("<IIQQ" + 2 * "IHHQQQQQ" + "QQ")


@dataclass(frozen=True)
class _Tree:
    """The main table: its root page, and the numbers of pages and entries."""

    page: int
    root: int
    entries: int
    pages: int
    transaction: int


class Lmdb:
    """The values of an LMDB by key; raises CogViewError if the file is damaged or is not an LMDB.

    path: the file, or the directory that contains ``data.mdb``.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / DATA if path.is_dir() else path
        self._size = check_regular(self.path)
        self._file = open_regular(self.path)
        self._tree = self._newest()

    def __len__(self) -> int:
        return self._tree.entries

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None if the key does not exist."""
        number, tree = self._tree.root, self._tree
        for _ in range(MAX_DEPTH):
            if number == NOWHERE:
                return None
            page = self._page(number)
            flags, nodes = self._nodes(page)
            if flags & LEAF:
                return self._in_leaf(page, nodes, key)
            number = self._child(page, nodes, key)
        raise self._damaged(f"over {MAX_DEPTH} levels of {tree.pages:,} pages")

    def _damaged(self, reason: str) -> CogViewError:
        return CogViewError(f"{self.path} is not a readable LMDB ({reason}); copy it again")

    def _read(self, start: int, count: int) -> bytes:
        if start + count > self._size:
            raise self._damaged("it is truncated")
        try:
            self._file.seek(start)
            data = self._file.read(count)
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from error
        if len(data) < count:
            raise self._damaged("it is truncated")
        return data

    def _newest(self) -> _Tree:
        """The newer of the two states in the first two (meta) pages."""
        first = self._state(0)
        states = [first] if first else []
        for page in [first.page] if first else [4096, 8192, 16384, 32768, 65536]:
            if self._size >= page + HEADER + _META.size and (other := self._state(page)):
                states.append(other)
        if not states:
            raise self._damaged("no LMDB of version 0.9")
        tree = max(states, key=lambda state: state.transaction)
        if tree.pages * tree.page > self._size:
            raise self._damaged(f"it is truncated: {self._size:,} of {tree.pages * tree.page:,} bytes")
        return tree

    def _state(self, start: int) -> _Tree | None:
        head = self._read(start, HEADER + _META.size)
        magic, version, _, _, *rest = _META.unpack_from(head, HEADER)
        page, main, last, transaction = rest[0], rest[8:16], rest[16], rest[17]
        valid_size = 256 <= page <= 1 << 16 and page & (page - 1) == 0
        if (magic, version) != (MAGIC, VERSION) or not valid_size:
            return None
        return _Tree(page, root=main[7], entries=main[6], pages=last + 1, transaction=transaction)

    def _page(self, number: int) -> bytes:
        if not 0 <= number < self._tree.pages:
            raise self._damaged(f"page {number} of {self._tree.pages:,}")
        return self._read(number * self._tree.page, self._tree.page)

    def _nodes(self, page: bytes) -> tuple[int, list[int]]:
        """The flags of a branch or leaf page, and the offsets of its nodes."""
        flags, lower = struct.unpack_from("<HH", page, 10)
        if flags & ~0x8010 not in (BRANCH, LEAF) or not HEADER <= lower <= len(page):
            raise self._damaged("a page of another kind")
        count = (lower - HEADER) // 2
        offsets = list(struct.unpack_from(f"<{count}H", page, HEADER))
        if any(not lower <= offset <= len(page) - NODE for offset in offsets):
            raise self._damaged("a node outside its page")
        return flags, offsets

    def _key(self, page: bytes, node: int) -> bytes:
        (size,) = struct.unpack_from("<H", page, node + 6)
        if node + NODE + size > len(page):
            raise self._damaged("a key outside its page")
        return page[node + NODE : node + NODE + size]

    def _child(self, page: bytes, nodes: list[int], key: bytes) -> int:
        """The child page of a branch that contains a key: that of the last node whose key is not greater."""
        if not nodes:
            raise self._damaged("an empty branch")
        low, high = 0, len(nodes) - 1  # the first node's key counts as the smallest
        while low < high:
            middle = (low + high + 1) // 2
            if self._key(page, nodes[middle]) <= key:
                low = middle
            else:
                high = middle - 1
        first, second, third = struct.unpack_from("<HHH", page, nodes[low])
        return int(first | second << 16 | third << 32)

    def _in_leaf(self, page: bytes, nodes: list[int], key: bytes) -> bytes | None:
        low, high = 0, len(nodes)
        while low < high:
            middle = (low + high) // 2
            if self._key(page, nodes[middle]) < key:
                low = middle + 1
            else:
                high = middle
        if low == len(nodes) or self._key(page, nodes[low]) != key:
            return None
        return self._value(page, nodes[low], len(key))

    def _value(self, page: bytes, node: int, key_size: int) -> bytes:
        low, high, flags = struct.unpack_from("<HHH", page, node)
        size, start = low | high << 16, node + NODE + key_size
        if flags & (SUB | MULTIPLE):
            raise self._damaged("a table inside a table")
        if size > MAX_VALUE:
            raise self._damaged(f"a value of {size:,} bytes")
        if not flags & BIG:
            if start + size > len(page):
                raise self._damaged("a value outside its page")
            return page[start : start + size]
        if start + 8 > len(page):
            raise self._damaged("a value outside its page")
        (number,) = struct.unpack_from("<Q", page, start)
        if not 0 <= number < self._tree.pages:
            raise self._damaged(f"page {number} of {self._tree.pages:,}")
        return self._read(number * self._tree.page + HEADER, size)
