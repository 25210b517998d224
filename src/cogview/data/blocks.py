"""Blocks: the pieces a build is cut into, each done by whoever comes to it and put together at the end.

Block b holds the source's records b * n to (b + 1) * n - 1 and lies in ``shard-b`` with a ``block.json`` that
says what was found. The directory is written under a name of its own and renamed, so a block is there whole
or not at all, whoever wrote it and whatever was killed. :func:`join` makes one data set of all blocks: names
get the same numbers everywhere, and of samples with one key only the first stays, so that the result does
not depend on how many machines there were.
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
    """Languages, sources and splits in the order they were first met; their places are their numbers."""

    languages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    def with_those_of(self, report: Report) -> Names:
        """These, and behind them what a report has besides."""
        return self.with_names(
            Names(
                languages=tuple(report.captions), sources=tuple(report.sources), splits=tuple(report.splits)
            )
        )

    def with_names(self, more: Names) -> Names:
        """These, and behind them what is new in ``more``."""
        mine, other = self.model_dump(), more.model_dump()
        return Names(**{field: tuple(dict.fromkeys([*mine[field], *other[field]])) for field in mine})

    def begin(self, others: Names) -> bool:
        """Whether every name here has the same number there."""
        mine, theirs = self.model_dump(), others.model_dump()
        return all(theirs[field][: len(names)] == names for field, names in mine.items())


class Block(Config):
    """``block.json``: which records, by which plan, what became of them; entry: None where none is good.

    looks: difference hashes of the items, where near-duplicates are to be left out.
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
    """What all blocks share: grid (rows, columns) of codes, of the small images' codes, integer types."""

    grid: tuple[int, int]
    context_grid: tuple[int, int] | None
    codes_type: Literal["uint8", "uint16", "uint32"]
    texts_type: Literal["uint8", "uint16", "uint32"]

    def named(self, names: Names) -> ShardLayout:
        """With the numbers of the names."""
        return ShardLayout(self.grid, self.codes_type, self.texts_type, **names.model_dump())


def block_name(number: int) -> str:
    """The directory of a block."""
    return f"shard-{number:05d}"


def is_done(out: Path, number: int) -> bool:
    """Whether a block is there; brings back one whose exchange was cut short."""
    place, old = out / block_name(number), out / f"{block_name(number)}.old"
    if not place.exists() and (old / FILE).is_file():
        old.rename(place)
    return (place / FILE).is_file()


def read_block(out: Path, number: int) -> Block:
    """What ``block.json`` says."""
    return read_json(Block, out / block_name(number) / FILE)


def write_block(out: Path, block: Block, items: Sequence[TokenItem], layout: Layout) -> Block:
    """Write a block (its ``entry`` is filled in) and rename it into place; done by someone else, it stays."""
    work = out / f"{block_name(block.number)}.part-{uuid.uuid4().hex[:8]}"
    work.mkdir()
    done = _fill(work, block, items, layout)
    place = out / block_name(block.number)
    if not (place / FILE).is_file():  # what lies there without one was not finished
        shutil.rmtree(place, ignore_errors=True)
    try:
        work.rename(place)
    except OSError:  # another process was faster
        if not (place / FILE).is_file():
            raise
        shutil.rmtree(work)
    return done


def _fill(work: Path, block: Block, items: Sequence[TokenItem], layout: Layout) -> Block:
    """Write a block's files into ``work``."""
    done, name = block, block_name(block.number)
    if items:
        entry = write_shard(work, name, items, layout.named(block.names))
        for file in (work / name).iterdir():
            file.rename(work / file.name)
        (work / name).rmdir()
        done = block.model_copy(update={"entry": entry})
    write_atomically(work / FILE, done.model_dump_json(indent=1) + "\n")
    return done


def _exchange(out: Path, block: Block, items: Sequence[TokenItem], layout: Layout) -> Block:
    """Rewrite a block that is there already; at every moment the old or the new one is there."""
    place, old = out / block_name(block.number), out / f"{block_name(block.number)}.old"
    work = out / f"{block_name(block.number)}.part-{uuid.uuid4().hex[:8]}"
    work.mkdir()
    done = _fill(work, block.model_copy(update={"entry": None}), items, layout)
    shutil.rmtree(old, ignore_errors=True)
    place.rename(old)
    work.rename(place)
    shutil.rmtree(old)
    return done


# ---------------------------------------------------------------------------------------------- joining


@contextmanager
def joining(out: Path) -> Iterator[bool]:
    """Whether this process is the one that joins; the lock goes with the process, however it ends."""
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    except OSError:  # a file system without locks: joining twice gives the same
        pass
    try:
        yield True
    finally:
        lock.release()


def join(
    out: Path, blocks: int, layout: Layout, near: int | None = None
) -> tuple[tuple[ShardEntry, ...], Names, Report]:
    """Make one data set of all blocks: the shards that hold something, the names, one report.

    near: leave out images whose difference hashes are so near to an earlier one's.
    """
    names, tally, entries = Names(), Tally(), list[ShardEntry]()
    looks = None if near is None else Lookalikes(near)
    twice = _repeated(out, blocks)
    seen: set[str] = set()
    for number in range(blocks):
        block = read_block(out, number)
        names = names.with_names(block.names)
        again = {key: DUPLICATE for key in _keys(out, block) if key in seen} if twice else {}
        seen.update(key for key in _keys(out, block) if key in twice)
        if looks is not None and block.entry is not None:
            for key, look in zip(_keys(out, block), block.looks, strict=True):
                if key not in again and looks.meets(look):
                    again[key] = LOOKALIKE
        if again or not block.names.begin(names):
            block = _adapt(out, block, names, again, layout)
        tally.include(block.report)
        entries += [block.entry] if block.entry else []
    for left in out.glob("shard-*.part*"):
        shutil.rmtree(left, ignore_errors=True)
    return tuple(entries), names, tally.report()


def _keys(out: Path, block: Block) -> list[str]:
    if block.entry is None:
        return []
    return (out / block.entry.name / "keys.bin").read_text("utf-8").split("\n")[:-1]


def _repeated(out: Path, blocks: int) -> set[str]:
    """Keys that come more than once, found by hashes: eight bytes a sample, not the keys themselves."""
    hashes = [_hashes(_keys(out, read_block(out, number))) for number in range(blocks)]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    often = values[counts > 1]
    if not len(often):
        return set()
    found: set[str] = set()
    for number, part in enumerate(hashes):
        places = np.flatnonzero(np.isin(part, often))
        keys = _keys(out, read_block(out, number)) if len(places) else []
        found.update(keys[place] for place in places)
    return found


def _hashes(keys: Sequence[str]) -> NDArray[np.uint64]:
    data = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(data, "<u8")


def _adapt(out: Path, block: Block, names: Names, again: Mapping[str, str], layout: Layout) -> Block:
    """Rewrite a block with the data set's numbers and without some samples, by key and why."""
    items = list(read_items(out, block, layout))
    kept = [item for item in items if item.key not in again]
    looks = tuple(look for item, look in zip(items, block.looks, strict=False) if item.key not in again)
    report = _without(block.report, [(item, again[item.key]) for item in items if item.key in again])
    changed = {"names": names, "report": report, "looks": looks}
    return _exchange(out, block.model_copy(update=changed), kept, layout)


def _without(report: Report, items: Sequence[tuple[TokenItem, str]]) -> Report:
    """The report after some of its good samples turned out to be duplicates, or near ones."""
    tally = Tally.resume(report)
    for item, reason in items:
        tally.good -= 1
        tally.captions.subtract(caption.language for caption in item.captions)
        tally.sources[item.source] -= 1
        tally.splits[item.split] -= 1
        said = f"{item.key!r} was there before" if reason == DUPLICATE else NEAR
        tally.reject(Rejection(key=item.key, place=item.key, reason=reason, message=said))
    found = tally.report()
    kept = {
        name: {key: count for key, count in getattr(found, name).items() if count}
        for name in ("captions", "sources", "splits")
    }
    return found.model_copy(update=kept)


def read_items(directory: Path, block: Block, layout: Layout) -> Iterator[TokenItem]:
    """The items of one block, read from its own files alone."""
    if block.entry is None:
        return
    place, entry = directory / block.entry.name, block.entry
    table, rows = (
        np.fromfile(place / f"{name}.bin", kind) for name, kind in (("captions", CAPTION), ("items", ITEM))
    )
    texts = np.fromfile(place / "texts.bin", layout.texts_type)
    codes = np.fromfile(place / "codes.bin", layout.codes_type).reshape(entry.items, -1).astype(np.int64)
    small = None
    if layout.context_grid:
        small = (
            np.fromfile(place / "context.bin", layout.codes_type).reshape(entry.items, -1).astype(np.int64)
        )
    keys, names = _keys(directory, block), block.names
    for number, (key, row) in enumerate(zip(keys, rows, strict=True)):
        captions = tuple(
            TokenCaption(
                tuple(texts[found["first"] : found["first"] + found["length"]].tolist()),
                names.languages[found["language"]],
                KINDS[found["kind"]],
            )
            for found in islice(table, int(row["first"]), int(row["first"]) + int(row["captions"]))
        )
        context = None if small is None else small[number]
        yield TokenItem(
            key, codes[number], captions, names.sources[row["source"]], names.splits[row["split"]], context
        )
