"""Counts good and rejected records, and reports them.

No record is fatal: each becomes either a :class:`~cogview.data.samples.Sample` or a :class:`Rejection` with a
reason and its location. `cogview data check` prints the report, a build stores it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from cogview.config import Config
from cogview.data.filters import Lookalikes
from cogview.data.samples import Sample
from cogview.data.shards import write_atomically
from cogview.data.sources import Record

EXPLANATIONS = {
    "unreadable record": "the line, row or caption file cannot be read; see its message",
    "missing caption": "no text beside the image, or an empty cell; write NAME.txt or fill the column",
    "missing image": "the record names no image",
    "missing file": "the image that the record names does not exist",
    "duplicate key": "another record has the same key; only the first is used",
    "too many bytes": "the image file is over the limit; raise --max-bytes if that is intended",
    "too many pixels": "the image is over the limit (a decompression bomb?); raise --max-pixels if not",
    "too small": "a side is under --min-side; super-resolution and random crops do not enlarge images",
    "not an image": "the file is empty or has no known image format",
    "truncated": "the image file is truncated or damaged; copy it again",
    "too slow": "decoding took longer than the limit; raise --max-seconds if the image is good",
    "too much memory": "decoding needs more than the limit; make the image smaller",
    "excluded word": "a caption has a word of --exclude",
    "even border": "more than --max-border of a side is a uniform border; crop it if the rest is good",
    "near duplicate": "it resembles an earlier image, within --near-duplicates bits; only the first is used",
    "decoder crashed": "the image crashes its decoder; save it again in another format",
}
EXCLUDED, LOOKALIKE = "excluded word", "near duplicate"
CHOSEN = (EXCLUDED, LOOKALIKE, "even border", "too small")  # reasons of optional filters, not defects
DUPLICATE, MISSING = "duplicate key", ("missing image", "the record names no picture")
EXAMPLES = 1000  # largest number of rejections per reason that a report lists; all are counted
SHOWN = 5


class Rejection(Config):
    """Why one record cannot be used."""

    key: str
    place: str
    reason: str
    message: str


@dataclass(frozen=True)
class Reading:
    """The result of reading a record: its sample or its rejection, the conversions, and the image file's
    bytes, shorter side in pixels and (if requested) difference hash."""

    sample: Sample | None
    rejection: Rejection | None = None
    conversions: tuple[str, ...] = ()
    bytes: int = 0
    side: int = 0
    look: int | None = None

    @classmethod
    def refused(cls, record: Record, reason: str, message: str) -> Reading:
        """The reading of a record that cannot be used."""
        return cls(None, Rejection(key=record.key, place=record.place, reason=reason, message=message))

    def unless_in(self, seen: set[str], record: Record) -> Reading:
        """This reading, or a rejection if its key is in ``seen``; keys of good samples are added to it."""
        if self.sample is None:
            return self
        if record.key in seen:
            return self.refused(record, DUPLICATE, f"{record.key!r} was there before")
        seen.add(record.key)
        return self

    def unless_like(self, known: Lookalikes | None, record: Record) -> Reading:
        """This reading, or a rejection if its image resembles one in ``known``; other images are added to
        it."""
        if self.sample is None or known is None or self.look is None or not known.meets(self.look):
            return self
        return self.refused(record, LOOKALIKE, NEAR)


NEAR = "it looks like an earlier image"


def problem(record: Record, need_caption: bool = True) -> tuple[str, str] | None:
    """(reason, message) if a record cannot be used, without reading its image; otherwise None."""
    if record.problem:
        return "unreadable record", record.problem
    if need_caption and not record.captions:
        return "missing caption", "no caption"
    if "\n" in record.key:
        return "unreadable record", "the key contains a line break"
    return MISSING if record.image is None else None


class Report(Config):
    """The result of a check or a build. ``examples`` holds the first 1000 rejections of every reason.

    picture_bytes: size of the good image files. twins: number of good records with the same image file as
    another one. orphans: number of caption files without an image.
    """

    records: int = 0
    good: int = 0
    picture_bytes: int = 0
    captions: dict[str, int] = Field(default_factory=dict)
    sources: dict[str, int] = Field(default_factory=dict)
    splits: dict[str, int] = Field(default_factory=dict)
    conversions: dict[str, int] = Field(default_factory=dict)
    rejected: dict[str, int] = Field(default_factory=dict)
    examples: tuple[Rejection, ...] = ()
    twins: int = 0
    orphans: int = 0

    @property
    def nameless(self) -> int:
        """How many were rejected only because they have no caption; `cogview train-on` can use them."""
        return self.rejected.get("missing caption", 0)

    @property
    def bad(self) -> int:
        """How many records were rejected."""
        return sum(self.rejected.values())

    @property
    def filtered(self) -> int:
        """How many of them were dropped by optional filters."""
        return sum(self.rejected.get(reason, 0) for reason in CHOSEN)

    def sizes(self, shards: int) -> str:
        """The compression: ``shards`` bytes of token shards compared to the image files."""
        ratio = self.picture_bytes / max(shards, 1)
        files, tokens = _bytes(self.picture_bytes), _bytes(shards)
        return f"image files {files}, shards {tokens}: {ratio:.1f} times smaller"

    def lines(self) -> list[str]:
        """The report as lines of text."""
        out = [f"{self.records:,} records: {self.good:,} good, {self.bad:,} rejected"]
        for title, counts in (
            ("captions", self.captions),
            ("sources", self.sources),
            ("splits", self.splits),
        ):
            if counts:
                out.append(
                    f"  {title}: " + ", ".join(f"{name or 'untagged'} {n:,}" for name, n in counts.items())
                )
        out += [f"  converted: {name}, {count:,}" for name, count in self.conversions.items()]
        out += [f"  duplicate image files: {self.twins:,}"] if self.twins else []
        out += [f"  caption files without an image: {self.orphans:,}"] if self.orphans else []
        for reason, count in self.rejected.items():
            out.append(f"  rejected: {reason}, {count:,} ({EXPLANATIONS.get(reason, '')})")
            same = [example for example in self.examples if example.reason == reason]
            out += [f"    {example.place}: {example.message}" for example in same[:SHOWN]]
            out += [f"    and {count - SHOWN:,} more"] if count > SHOWN else []
        return out

    def save(self, path: Path) -> None:
        """Write the report as JSON."""
        write_atomically(path, self.model_dump_json(indent=2) + "\n")


@dataclass
class Tally:
    """Mutable counts of a report; :meth:`report` returns it, :meth:`resume` continues from one."""

    records: int = 0
    good: int = 0
    picture_bytes: int = 0
    captions: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    examples: list[Rejection] = field(default_factory=list)

    @classmethod
    def resume(cls, report: Report) -> Tally:
        """A tally that continues from a report."""
        counts: dict[str, Any] = {name: Counter(getattr(report, name)) for name in COUNTERS}
        return cls(
            report.records, report.good, report.picture_bytes, examples=list(report.examples), **counts
        )

    def add(self, reading: Reading) -> None:
        """Count one reading."""
        self.records += 1
        if reading.sample is not None:
            self.good += 1
            self.picture_bytes += reading.bytes
            self.captions.update(caption.language for caption in reading.sample.captions)
            self.sources[reading.sample.source] += 1
            self.splits[reading.sample.split] += 1
            self.conversions.update(reading.conversions)
        if reading.rejection is not None:
            self.reject(reading.rejection)

    def reject(self, rejection: Rejection) -> None:
        self.rejected[rejection.reason] += 1
        if self.rejected[rejection.reason] <= EXAMPLES:
            self.examples.append(rejection)

    def include(self, report: Report) -> None:
        """Add the counts of a report of the following records."""
        self.records += report.records
        self.good += report.good
        self.picture_bytes += report.picture_bytes
        for name in COUNTERS:
            getattr(self, name).update(getattr(report, name))
        listed = Counter(known.reason for known in self.examples)
        for rejection in report.examples:
            listed[rejection.reason] += 1
            if listed[rejection.reason] <= EXAMPLES:
                self.examples.append(rejection)

    def report(self) -> Report:
        """The counts so far."""
        counts: dict[str, Any] = {name: dict(getattr(self, name)) for name in COUNTERS}
        return Report(
            records=self.records,
            good=self.good,
            picture_bytes=self.picture_bytes,
            examples=tuple(self.examples),
            **counts,
        )


COUNTERS = ("captions", "sources", "splits", "conversions", "rejected")


def _bytes(count: int) -> str:
    """Format bytes: ``12.3 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
