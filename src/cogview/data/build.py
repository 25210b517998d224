"""Samples to token shards: decode, cut square, encode pictures and captions, write (`cogview data build`).

Every shard takes a fixed number of the source's records and is written under a temporary name and renamed;
then a journal (``build.json``) says how far the build came. A build that stopped, at whatever moment, goes
on from there: every good record ends in exactly one shard. ``index.json`` is written last, so a half-built
data set cannot be mistaken for a whole one.

For super-resolution (CogView, section 3.1) each picture is tokenised twice, large and small, and both kinds
of codes stand side by side. The paper crops regions of the base size first; here a picture may also stay
whole at twice that size, and training takes windows of it with the part of the small picture under them,
which is what the sliding window does when it draws.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import Tensor

from cogview.config import Config, read_json
from cogview.data.check import Report, Tally, read_record
from cogview.data.images import Limits, square
from cogview.data.samples import Sample
from cogview.data.shards import (
    INDEX,
    Preprocessing,
    ShardEntry,
    ShardIndex,
    ShardLayout,
    TokenCaption,
    TokenItem,
    TokenShards,
    smallest_type,
    write_atomically,
    write_shard,
)
from cogview.data.sources import Source
from cogview.errors import CogViewError
from cogview.vocabulary import Vocabulary

JOURNAL = "build.json"
REPORT = "report.json"
Progress = Callable[[int, int], None]


class ImageEncoder(Protocol):
    """The part of :class:`cogview.tokenizers.vqvae.ImageTokenizer` a build uses."""

    @property
    def codes(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def grid(self, size: int) -> tuple[int, int]: ...
    def encode(self, images: Tensor) -> Tensor: ...


class TextEncoder(Protocol):
    """The part of :class:`cogview.tokenizers.text.TextTokenizer` a build uses."""

    @property
    def pieces(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def encode(self, text: str) -> list[int]: ...


class BuildSettings(Config):
    """How a data set is built. ``shard_records`` records of the source go into a shard.

    super_resolution: tokenise each picture small too, ``scale`` times smaller a side.
    """

    preprocessing: Preprocessing
    super_resolution: bool = False
    scale: int = Field(default=2, ge=2)
    limits: Limits = Limits()
    shard_records: int = Field(default=4096, ge=1)
    batch: int = Field(default=64, ge=1)


class Journal(Config):
    """How far a build came: the source's first ``report.records`` records are in ``shards`` or rejected."""

    version: Literal[1] = 1
    plan: str
    shards: tuple[ShardEntry, ...] = ()
    report: Report = Report()


class Builder:
    """One build of one source into one directory."""

    def __init__(
        self,
        source: Source,
        out: str | Path,
        images: ImageEncoder,
        texts: TextEncoder,
        settings: BuildSettings,
    ) -> None:
        self.source, self.out, self.images, self.texts, self.settings = (
            source,
            Path(out),
            images,
            texts,
            settings,
        )
        self.grid = images.grid(settings.preprocessing.size)
        self.small = self._reduced()
        self.codes_type, self.texts_type = smallest_type(images.codes), smallest_type(texts.pieces)

    def _reduced(self) -> Preprocessing | None:
        """How the small pictures are made; CogViewError where they would not be whole codes."""
        if not self.settings.super_resolution:
            return None
        large, scale = self.settings.preprocessing, self.settings.scale
        if large.size % scale or any(side % scale for side in self.grid):
            part = "halved" if scale == 2 else f"divided by {scale}"
            raise CogViewError(
                f"pictures of {large.size} px have {self.grid[0]} x {self.grid[1]} codes, which cannot be "
                f"{part}; choose a --size of which that part is a multiple of the tokenizer's pixels a code"
            )
        return large.model_copy(update={"size": large.size // scale})

    def plan(self) -> str:
        """A hash of all that decides the result; a stopped build only goes on under the same plan."""
        left_out = {"batch"} if self.small else {"batch", "super_resolution"}
        left_out |= {"scale"} if self.settings.scale == BuildSettings.model_fields["scale"].default else set()
        settings = self.settings.model_dump_json(exclude=left_out)
        parts = [self.source.fingerprint(), self.images.fingerprint, self.texts.fingerprint, settings]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def start(self, restart: bool = False) -> Journal:
        """The journal to go on from; raises CogViewError where the directory holds something else."""
        path = self.out / JOURNAL
        if restart or not path.is_file():
            if not restart and self.out.is_dir() and any(self.out.iterdir()):
                raise CogViewError(
                    f"{self.out} is not empty; give a new directory or --restart to build there anew"
                )
            self._clear()
            return Journal(plan=self.plan())
        journal = _read_journal(path)
        if journal.plan != self.plan():
            raise CogViewError(
                f"{self.out} was begun from other data, tokenizers or settings; "
                "use those, or --restart to build anew"
            )
        return journal

    def run(self, restart: bool = False, progress: Progress | None = None) -> Report:
        """Build, or go on building; returns the report, which is also in ``report.json``."""
        total = len(self.source)
        journal = self.start(restart)
        seen = _keys(self.out, journal)
        self._save(journal)
        while journal.report.records < total:
            journal = self._shard(journal, seen, lambda done: progress(done, total) if progress else None)
            self._save(journal)
        if not journal.shards:
            raise CogViewError(
                f"not one usable sample among {total:,} records; `cogview data check` says why"
            )
        journal.report.save(self.out / REPORT)
        write_atomically(self.out / INDEX, self._index(journal).model_dump_json(indent=1) + "\n")
        return journal.report

    def _clear(self) -> None:
        for name in (INDEX, JOURNAL, REPORT):
            (self.out / name).unlink(missing_ok=True)
        for shard in self.out.glob("shard-*"):
            shutil.rmtree(shard)

    def _save(self, journal: Journal) -> None:
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            write_atomically(self.out / JOURNAL, journal.model_dump_json(indent=1) + "\n")
        except OSError as error:
            raise CogViewError(
                f"{self.out} cannot be written: {error.strerror}; give another directory"
            ) from error

    def _shard(self, journal: Journal, seen: set[str], progress: Callable[[int], None]) -> Journal:
        """Read the next ``shard_records`` records, write their shard and return the journal after it."""
        tally = Tally.resume(journal.report)
        samples = self._samples(tally, seen, progress)
        batches = iter(lambda: list(itertools.islice(samples, self.settings.batch)), [])
        items = [item for batch in batches for item in self.tokenise(batch)]
        report, entries = tally.report(), journal.shards
        if items:
            entry = write_shard(self.out, f"shard-{len(entries):05d}", items, self._layout(report))
            entries = (*entries, entry)
        return Journal(plan=journal.plan, shards=entries, report=report)

    def _samples(self, tally: Tally, seen: set[str], progress: Callable[[int], None]) -> Iterator[Sample]:
        """The good ones of the next ``shard_records`` records, their pictures already small squares."""
        for record in itertools.islice(self.source.records(tally.records), self.settings.shard_records):
            reading = read_record(record, self.settings.limits, seen)
            tally.add(reading)
            if reading.sample is not None:
                pixels = square(reading.sample.image, self.settings.preprocessing)
                yield replace(reading.sample, image=Image.fromarray(pixels))
            progress(tally.records)

    def tokenise(self, samples: Sequence[Sample]) -> list[TokenItem]:
        """Encode some samples' pictures (in one batch) and captions."""
        codes = self._encode([np.asarray(sample.image) for sample in samples])
        if self.small is None:
            return [self._item(sample, row) for sample, row in zip(samples, codes, strict=True)]
        context = self._encode([square(sample.image, self.small) for sample in samples])
        return [self._item(*parts) for parts in zip(samples, codes, context, strict=True)]

    def _encode(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Codes (batch, h * w) of pictures (size, size, 3)."""
        images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255.0
        with torch.inference_mode():
            codes: NDArray[np.int64] = self.images.encode(images).cpu().numpy()
        return codes

    def _item(
        self, sample: Sample, codes: NDArray[np.int64], context: NDArray[np.int64] | None = None
    ) -> TokenItem:
        captions = tuple(
            TokenCaption(tuple(self.texts.encode(caption.text)), caption.language, caption.kind)
            for caption in sample.captions
        )
        return TokenItem(sample.key, codes, captions, sample.source, sample.split, context)

    def _layout(self, report: Report) -> ShardLayout:
        """Names in the order they were first met: later shards may add some, numbers never change."""
        return ShardLayout(
            grid=self.grid,
            codes_type=self.codes_type,
            texts_type=self.texts_type,
            languages=tuple(report.captions),
            sources=tuple(report.sources),
            splits=tuple(report.splits),
        )

    def _index(self, journal: Journal) -> ShardIndex:
        return ShardIndex(
            items=sum(entry.items for entry in journal.shards),
            captions=sum(entry.captions for entry in journal.shards),
            grid=self.grid,
            context_grid=self.images.grid(self.small.size) if self.small else None,
            codes_type=self.codes_type,
            texts_type=self.texts_type,
            vocabulary=Vocabulary(image_codes=self.images.codes, text_pieces=self.texts.pieces),
            preprocessing=self.settings.preprocessing,
            image_tokenizer=self.images.fingerprint,
            text_tokenizer=self.texts.fingerprint,
            languages=tuple(journal.report.captions),
            sources=journal.report.sources,
            splits=journal.report.splits,
            shards=journal.shards,
        )


def _read_journal(path: Path) -> Journal:
    try:
        return read_json(Journal, path)
    except CogViewError as error:
        raise CogViewError(f"{error}; build anew with --restart") from error


def _keys(out: Path, journal: Journal) -> set[str]:
    keys: set[str] = set()
    for entry in journal.shards:
        keys.update((out / entry.name / "keys.bin").read_text("utf-8").split("\n")[:-1])
    return keys


def build(
    source: Source,
    out: str | Path,
    images: ImageEncoder,
    texts: TextEncoder,
    settings: BuildSettings,
    restart: bool = False,
    progress: Progress | None = None,
) -> TokenShards:
    """Build ``source`` into token shards at ``out``, or finish a build that stopped; returns them opened.

    ``progress`` is called with (records done, records in all). Raises CogViewError where ``out`` holds
    something else, where the source changed since the build began, or where no record is usable.
    """
    Builder(source, out, images, texts, settings).run(restart, progress)
    return TokenShards(out)
