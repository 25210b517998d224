"""Blocks: the units of work of a build, processed by any number of workers and joined at the end.

Block b holds the source's records b * n to (b + 1) * n - 1, in ``shard-b`` with a report in ``block.json``.
The directory is written under a temporary name and renamed, so a block is either complete or absent, even
after a crash. :func:`join` combines all blocks into one data set: names get the same numbers everywhere, and
of samples with the same key only the first is kept, so that the result does not depend on the number of
workers.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from pydantic import Field

from cogview.config import Config, read_json
from cogview.data.filters import Lookalikes
from cogview.data.samples import KINDS
from cogview.data.shards import (
    CAPTION,
    ITEM,
    ShardEntry,
    ShardLayout,
    TokenCaption,
    TokenItem,
    write_atomically,
    write_shard,
)
from cogview.data.tally import DUPLICATE, LOOKALIKE, NEAR, Rejection, Report, Tally

FILE, LOCK = "block.json", "joining.lock"


class Names(Config):
    """Languages, sources and splits in the order of their first occurrence; their indices are their
    numbers."""

    languages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    def with_those_of(self, report: Report) -> Names:
        """These names, followed by the new ones of a report."""
        return self.with_names(
            Names(
                languages=tuple(report.captions), sources=tuple(report.sources), splits=tuple(report.splits)
            )
        )

    def with_names(self, more: Names) -> Names:
        """These names, followed by the new ones in ``more``."""
        mine, other = self.model_dump(), more.model_dump()
        return Names(**{field: tuple(dict.fromkeys([*mine[field], *other[field]])) for field in mine})

    def begin(self, others: Names) -> bool:
        """Whether every name has the same number in ``others``."""
        mine, theirs = self.model_dump(), others.model_dump()
        return all(theirs[field][: len(names)] == names for field, names in mine.items())


class Block(Config):
    """``block.json``: the records, the plan and the report of a block; entry: None if no record is good.

    looks: difference hashes of the items, if near-duplicates are filtered.
    """

    version: Literal[1] = 1
    plan: str
    number: int = Field(ge=0)
    records: int = Field(ge=1)
    names: Names
    entry: ShardEntry | None
    report: Report
    looks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """Properties that all blocks share: grids (rows, columns) of the images' and small images' codes, integer
    types."""

    grid: tuple[int, int]
    context_grid: tuple[int, int] | None
    codes_type: Literal["uint8", "uint16", "uint32"]
    texts_type: Literal["uint8", "uint16", "uint32"]

    def named(self, names: Names) -> ShardLayout:
        """The layout of a shard with these names."""
        return ShardLayout(self.grid, self.codes_type, self.texts_type, **names.model_dump())


def block_name(number: int) -> str:
    """The name of a block's directory."""
    return f"shard-{number:05d}"


def is_done(out: Path, number: int) -> bool:
    """Whether a block exists; restores one whose replacement was interrupted."""
    path, old = out / block_name(number), out / f"{block_name(number)}.old"
    if not path.exists() and (old / FILE).is_file():
        old.rename(path)
    return (path / FILE).is_file()


def read_block(out: Path, number: int) -> Block:
    """Read ``block.json``."""
    return read_json(Block, out / block_name(number) / FILE)


def write_block(out: Path, block: Block, items: Sequence[TokenItem], layout: Layout) -> Block:
    """Write a block (its ``entry`` is filled in) and rename it into place, unless another process did."""
    work = out / f"{block_name(block.number)}.part-{uuid.uuid4().hex[:8]}"
    work.mkdir()
    written = _fill(work, block, items, layout)
    path = out / block_name(block.number)
    if not (path / FILE).is_file():  # without the file the directory is unfinished
        shutil.rmtree(path, ignore_errors=True)
    try:
        work.rename(path)
    except OSError:  # another process was faster
        if not (path / FILE).is_file():
            raise
        shutil.rmtree(work)
    return written


def _fill(work: Path, block: Block, items: Sequence[TokenItem], layout: Layout) -> Block:
    """Write a block's files into ``work``."""
    written, name = block, block_name(block.number)
    if items:
        entry = write_shard(work, name, items, layout.named(block.names))
        for file in (work / name).iterdir():
            file.rename(work / file.name)
        (work / name).rmdir()
        written = block.model_copy(update={"entry": entry})
    write_atomically(work / FILE, written.model_dump_json(indent=1) + "\n")
    return written


def _replace(out: Path, block: Block, items: Sequence[TokenItem], layout: Layout) -> Block:
    """Rewrite an existing block; at any time either the old or the new one exists."""
    path, old = out / block_name(block.number), out / f"{block_name(block.number)}.old"
    work = out / f"{block_name(block.number)}.part-{uuid.uuid4().hex[:8]}"
    work.mkdir()
    written = _fill(work, block.model_copy(update={"entry": None}), items, layout)
    shutil.rmtree(old, ignore_errors=True)
    path.rename(old)
    work.rename(path)
    shutil.rmtree(old)
    return written


# ---------------------------------------------------------------------------------------------- joining


@contextmanager
def joining(out: Path) -> Iterator[bool]:
    """A context that yields whether this process joins the blocks; the lock is released when it ends."""
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError:  # a file system without locks: joining twice has the same result
        pass
    try:
        yield True
    finally:
        lock.release()


def join(
    out: Path, blocks: int, layout: Layout, near: int | None = None
) -> tuple[tuple[ShardEntry, ...], Names, Report]:
    """Combine all blocks into one data set; returns the nonempty shards, the names and one report.

    near: drop images whose difference hash is within this distance of an earlier one's.
    """
    names, tally, entries = Names(), Tally(), list[ShardEntry]()
    hashes = None if near is None else Lookalikes(near)
    repeated = _repeated(out, blocks)
    seen: set[str] = set()
    for number in range(blocks):
        block = read_block(out, number)
        names = names.with_names(block.names)
        duplicates = {key: DUPLICATE for key in _keys(out, block) if key in seen} if repeated else {}
        seen.update(key for key in _keys(out, block) if key in repeated)
        if hashes is not None and block.entry is not None:
            for key, value in zip(_keys(out, block), block.looks, strict=True):
                if key not in duplicates and hashes.meets(value):
                    duplicates[key] = LOOKALIKE
        if duplicates or not block.names.begin(names):
            block = _adapt(out, block, names, duplicates, layout)
        tally.include(block.report)
        entries += [block.entry] if block.entry else []
    for unfinished in out.glob("shard-*.part*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    return tuple(entries), names, tally.report()


def _keys(out: Path, block: Block) -> list[str]:
    if block.entry is None:
        return []
    return (out / block.entry.name / "keys.bin").read_text("utf-8").split("\n")[:-1]


def _repeated(out: Path, blocks: int) -> set[str]:
    """Keys that occur more than once; only hashes are kept in memory, eight bytes per sample."""
    hashes = [_hashes(_keys(out, read_block(out, number))) for number in range(blocks)]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    repeated = values[counts > 1]
    if not len(repeated):
        return set()
    found: set[str] = set()
    for number, part in enumerate(hashes):
        indices = np.flatnonzero(np.isin(part, repeated))
        keys = _keys(out, read_block(out, number)) if len(indices) else []
        found.update(keys[index] for index in indices)
    return found


def _hashes(keys: Sequence[str]) -> NDArray[np.uint64]:
    data = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(data, "<u8")


def _adapt(out: Path, block: Block, names: Names, duplicates: Mapping[str, str], layout: Layout) -> Block:
    """Rewrite a block with the data set's numbers and without duplicates (key to reason)."""
    items = list(read_items(out, block, layout))
    kept = [item for item in items if item.key not in duplicates]
    looks = tuple(look for item, look in zip(items, block.looks, strict=False) if item.key not in duplicates)
    dropped = [(item, duplicates[item.key]) for item in items if item.key in duplicates]
    report = _without(block.report, dropped)
    changed = {"names": names, "report": report, "looks": looks}
    return _replace(out, block.model_copy(update=changed), kept, layout)


def _without(report: Report, items: Sequence[tuple[TokenItem, str]]) -> Report:
    """The report with some of its good samples counted as duplicates or near-duplicates."""
    tally = Tally.resume(report)
    for item, reason in items:
        tally.good -= 1
        tally.captions.subtract(caption.language for caption in item.captions)
        tally.sources[item.source] -= 1
        tally.splits[item.split] -= 1
        message = f"{item.key!r} was there before" if reason == DUPLICATE else NEAR
        tally.reject(Rejection(key=item.key, place=item.key, reason=reason, message=message))
    updated = tally.report()
    nonzero = {
        name: {key: count for key, count in getattr(updated, name).items() if count}
        for name in ("captions", "sources", "splits")
    }
    return updated.model_copy(update=nonzero)


def read_items(directory: Path, block: Block, layout: Layout) -> Iterator[TokenItem]:
    """The items of one block, read from its files."""
    if block.entry is None:
        return
    path, entry = directory / block.entry.name, block.entry
    table, rows = (
        np.fromfile(path / f"{name}.bin", kind) for name, kind in (("captions", CAPTION), ("items", ITEM))
    )
    texts = np.fromfile(path / "texts.bin", layout.texts_type)
    codes = np.fromfile(path / "codes.bin", layout.codes_type).reshape(entry.items, -1).astype(np.int64)
    small = None
    if layout.context_grid:
        small = np.fromfile(path / "context.bin", layout.codes_type).reshape(entry.items, -1).astype(np.int64)
    keys, names = _keys(directory, block), block.names
    for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
        captions = tuple(
            TokenCaption(
                tuple(texts[caption["first"] : caption["first"] + caption["length"]].tolist()),
                names.languages[caption["language"]],
                KINDS[caption["kind"]],
            )
            for caption in islice(table, int(row["first"]), int(row["first"]) + int(row["captions"]))
        )
        context = None if small is None else small[number]
        yield TokenItem(
            key, codes[number], captions, names.sources[row["source"]], names.splits[row["split"]], context
        )
