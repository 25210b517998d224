"""Is a data set fit to train on? Every record is read as a build would read it; what is broken is counted."""

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

GLANCE = Preprocessing(size=1, resample="box")  # a check wants no image


def check(
    source: Source,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> Report:
    """Read every record of a source and count what is good and what is not; never raises for a record.

    ``progress`` is called with (records done, records in all). With ``workers`` processes images are
    decoded there, and limits of time and memory hold.
    """
    tally, seen, total = Tally(), set[str](), len(source)
    pictures, twins, limits = set[bytes](), 0, limits or Limits()
    near = limits.filters.near_duplicates
    looks = None if near is None else Lookalikes(near)
    with Decoders(limits, GLANCE, workers) as decoders:
        for record, reading in decoders.readings(source.records()):
            reading = reading.unless_in(seen, record).unless_like(looks, record)
            tally.add(reading)
            if reading.sample is not None:
                content = _digest(record.image)
                twins += content in pictures
                pictures.add(content)
            if progress:
                progress(tally.records, total)
    return tally.report().model_copy(update={"twins": twins, "orphans": _orphans(source)})


def _digest(image: bytes | Path | None) -> bytes:
    """A hash of an image's file."""
    if isinstance(image, Path):
        with image.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    return hashlib.blake2b(image or b"").digest()


def _orphans(source: Source) -> int:
    """Caption files without an image, in the folder that is inside ``source``, if it is one."""
    inner: object = source
    while not isinstance(inner, FolderSource) and hasattr(inner, "source"):
        inner = inner.source
    return len(inner.orphans) if isinstance(inner, FolderSource) else 0
