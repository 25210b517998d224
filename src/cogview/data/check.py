"""Checks a data set before training: reads every record as a build would, and counts the defects."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from cogview.data.decoders import Decoders
from cogview.data.filters import Lookalikes
from cogview.data.images import Limits
from cogview.data.shards import Preprocessing
from cogview.data.sources import FolderSource, Source
from cogview.data.tally import Report, Tally

GLANCE = Preprocessing(size=1, resample="box")  # a check does not need the image


def check(
    source: Source,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Report:
    """Read every record of a source and count good and defective ones; never raises for a record.

    ``progress`` is called with (records done, total). With ``workers`` images are decoded in that many
    processes, where limits of time and memory apply.
    """
    tally, seen, total = Tally(), set[str](), len(source)
    digests, twins, limits = set[bytes](), 0, limits or Limits()
    near = limits.filters.near_duplicates
    hashes = None if near is None else Lookalikes(near)
    with Decoders(limits, GLANCE, workers) as decoders:
        for record, reading in decoders.readings(source.records()):
            reading = reading.unless_in(seen, record).unless_like(hashes, record)
            tally.add(reading)
            if reading.sample is not None:
                content = _digest(record.image)
                twins += content in digests
                digests.add(content)
            if progress:
                progress(tally.records, total)
    return tally.report().model_copy(update={"twins": twins, "orphans": _orphans(source)})


def _digest(image: bytes | Path | None) -> bytes:
    """A hash of an image file."""
    if isinstance(image, Path):
        with image.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    return hashlib.blake2b(image or b"").digest()


def _orphans(source: Source) -> int:
    """The number of caption files without an image, if ``source`` is a (wrapped) folder."""
    inner: object = source
    while not isinstance(inner, FolderSource) and hasattr(inner, "source"):
        inner = inner.source
    return len(inner.orphans) if isinstance(inner, FolderSource) else 0
