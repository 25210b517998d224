"""Is a data set fit to train on? Every record is read as a build would read it; what is broken is counted.

Nothing a record holds is fatal: a record either becomes a :class:`~cogview.data.samples.Sample` or a
:class:`Rejection` with a reason and its place. `cogview data check` prints the report, a build writes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from cogview.config import Config
from cogview.data.images import BadImage, Limits, decode
from cogview.data.samples import Sample
from cogview.data.shards import write_atomically
from cogview.data.sources import Record, Source

EXPLANATIONS = {
    "unreadable record": "the line, row or caption file cannot be read; see its message",
    "missing caption": "no text beside the picture, or an empty cell; write NAME.txt or fill the column",
    "missing image": "the record names no picture",
    "missing file": "the picture the record names does not exist",
    "duplicate key": "another record has the same key; only the first is used",
    "too many bytes": "the picture file is over the limit; raise --max-bytes if that is intended",
    "too many pixels": "the picture is over the limit (a decompression bomb?); raise --max-pixels if not",
    "not an image": "the file is empty or in no known picture format",
    "truncated": "the picture file is cut off or damaged; copy it again",
}
EXAMPLES = 1000  # rejections of one kind that a report lists; all are counted
SHOWN = 5


class Rejection(Config):
    """Why one record cannot be used."""

    key: str
    place: str
    reason: str
    message: str


@dataclass(frozen=True)
class Reading:
    """A record that was read: its sample, or why there is none; and what was converted."""

    sample: Sample | None
    rejection: Rejection | None = None
    conversions: tuple[str, ...] = ()


def read_record(record: Record, limits: Limits, seen: set[str], need_caption: bool = True) -> Reading:
    """Turn a record into a sample, or say why not. ``seen`` collects the keys of good samples."""
    problem = _problem(record, seen, need_caption)
    if problem is None and record.image is not None:
        try:
            decoded = decode(record.image, limits)
        except BadImage as error:
            problem = (error.reason, str(error))
        else:
            seen.add(record.key)
            sample = Sample(record.key, decoded.image, record.captions, record.source, record.split)
            return Reading(sample, conversions=decoded.conversions)
    reason, message = problem or ("missing image", "the record names no picture")
    return Reading(None, Rejection(key=record.key, place=record.place, reason=reason, message=message))


def _problem(record: Record, seen: set[str], need_caption: bool) -> tuple[str, str] | None:
    if record.problem:
        return "unreadable record", record.problem
    if need_caption and not record.captions:
        return "missing caption", "no caption"
    if record.key in seen:
        return "duplicate key", f"{record.key!r} was there before"
    if "\n" in record.key:
        return "unreadable record", "the key contains a line break"
    return None


class Report(Config):
    """What a check or a build found. ``examples`` holds the first 1000 rejections of every reason."""

    records: int = 0
    good: int = 0
    captions: dict[str, int] = Field(default_factory=dict)
    sources: dict[str, int] = Field(default_factory=dict)
    splits: dict[str, int] = Field(default_factory=dict)
    conversions: dict[str, int] = Field(default_factory=dict)
    rejected: dict[str, int] = Field(default_factory=dict)
    examples: tuple[Rejection, ...] = ()

    @property
    def bad(self) -> int:
        """How many records were rejected."""
        return sum(self.rejected.values())

    def lines(self) -> list[str]:
        """The report for people, one line a fact."""
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
    """A report being counted; :meth:`report` freezes it, :meth:`resume` goes on from one."""

    records: int = 0
    good: int = 0
    captions: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    conversions: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    examples: list[Rejection] = field(default_factory=list)

    @classmethod
    def resume(cls, report: Report) -> Tally:
        """A tally that goes on where a report ended."""
        counts: dict[str, Any] = {name: Counter(getattr(report, name)) for name in COUNTERS}
        return cls(report.records, report.good, examples=list(report.examples), **counts)

    def add(self, reading: Reading) -> None:
        """Count one reading."""
        self.records += 1
        if reading.sample is not None:
            self.good += 1
            self.captions.update(caption.language for caption in reading.sample.captions)
            self.sources[reading.sample.source] += 1
            self.splits[reading.sample.split] += 1
            self.conversions.update(reading.conversions)
        if reading.rejection is not None:
            self.rejected[reading.rejection.reason] += 1
            if self.rejected[reading.rejection.reason] <= EXAMPLES:
                self.examples.append(reading.rejection)

    def report(self) -> Report:
        """The counts so far."""
        counts: dict[str, Any] = {name: dict(getattr(self, name)) for name in COUNTERS}
        return Report(records=self.records, good=self.good, examples=tuple(self.examples), **counts)


COUNTERS = ("captions", "sources", "splits", "conversions", "rejected")


def check(
    source: Source, limits: Limits | None = None, progress: Callable[[int, int], None] | None = None
) -> Report:
    """Read every record of a source and count what is good and what is not; never raises for a record.

    ``progress`` is called with (records done, records in all).
    """
    tally, seen, total = Tally(), set[str](), len(source)
    for record in source.records():
        tally.add(read_record(record, limits or Limits(), seen))
        if progress:
            progress(tally.records, total)
    return tally.report()
