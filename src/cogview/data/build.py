"""Samples to token shards: decode, crop to squares, encode images and captions, write (`cogview data build`).

The source's records are divided into blocks of fixed size (:mod:`~cogview.data.blocks`). Each becomes a shard
that is written under a temporary name and renamed, so an interrupted build continues with the missing blocks.
Any number of ranks share the blocks; the rank that finds all of them complete joins them. Every good record
is in exactly one shard, and the result does not depend on the number of ranks and processes or on
interruptions. ``index.json`` is written last, so an unfinished data set cannot be mistaken for a complete
one.

For super-resolution (CogView, section 3.1) each image is encoded twice, large and small, and both kinds of
codes are stored. The paper first crops regions of the base size; here an image may also be kept entirely at
twice that size, and training takes windows of it with the corresponding part of the small image, as the
sliding window does at inference.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from cogview.config import Config, read_json
from cogview.data.blocks import Block, Layout, Names, is_done, join, joining, write_block
from cogview.data.decoders import Decoders
from cogview.data.filters import Filters
from cogview.data.images import SIZES, Limits, square
from cogview.data.samples import Sample
from cogview.data.shards import (
    INDEX,
    TRANSLATIONS,
    Preprocessing,
    ShardEntry,
    ShardIndex,
    TokenCaption,
    TokenItem,
    TokenShards,
    smallest_type,
    write_atomically,
)
from cogview.data.sources import Record, Source
from cogview.data.tally import Reading, Report, Tally
from cogview.errors import CogViewError
from cogview.files import readable
from cogview.tokenizers.language_classes import class_runs
from cogview.vocabulary import Vocabulary

JOURNAL = "build.json"
REPORT = "report.json"
Progress = Callable[[int, int], None]
Spread = Callable[[Sequence[int]], Iterable[int]]  # block numbers -> record count of each finished block


class ImageEncoder(Protocol):
    """The part of :class:`cogview.tokenizers.vqvae.ImageTokenizer` that a build uses."""

    @property
    def codes(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def grid(self, size: int) -> tuple[int, int]: ...
    def encode(self, images: Tensor) -> Tensor: ...


class TextEncoder(Protocol):
    """The part of :class:`cogview.tokenizers.text.TextTokenizer` that a build uses."""

    @property
    def pieces(self) -> int: ...
    @property
    def fingerprint(self) -> str: ...
    def piece(self, piece_id: int) -> str: ...
    def encode(self, text: str) -> list[int]: ...


class BuildSettings(Config):
    """How a data set is built.

    shard_records: records of the source per shard. super_resolution: also encode each image with sides
    ``scale`` times smaller; images smaller than ``preprocessing.size`` have no detail to learn and are
    rejected. workers: number of decoding processes (0: decode in this one, without limits of time and
    memory). ``batch`` and ``workers`` do not change the result.
    """

    preprocessing: Preprocessing
    super_resolution: bool = False
    scale: int = Field(default=2, ge=2)
    limits: Limits = Limits()
    shard_records: int = Field(default=4096, ge=1)
    batch: int = Field(default=64, ge=1)
    workers: int = Field(default=0, ge=0)


class Journal(Config):
    """``build.json``: the hash of the plan, the number of records, and records per block."""

    version: Literal[2] = 2
    plan: str
    records: int = Field(ge=0)
    shard_records: int = Field(ge=1)


@dataclass(frozen=True)
class Share:
    """The blocks of this process: every ``ranks``-th, starting with ``rank``."""

    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.ranks:
            raise CogViewError(
                f"rank {self.rank} of {self.ranks}: ranks are counted from 0, so the last is {self.ranks - 1}"
            )


@dataclass(frozen=True)
class Progressed:
    """The result of one rank: finished blocks and their total; the report once all are joined."""

    done: int
    blocks: int
    report: Report | None


class Builder:
    """The build of a source into a directory, or one rank's part of it."""

    def __init__(
        self,
        source: Source,
        out: str | Path,
        images: ImageEncoder,
        texts: TextEncoder,
        settings: BuildSettings,
        share: Share | None = None,
    ) -> None:
        self.source, self.out, self.images, self.texts = source, Path(out), images, texts
        if settings.super_resolution:
            least = max(settings.limits.min_side, settings.preprocessing.size)
            limits = settings.limits.model_copy(update={"min_side": least})
            settings = settings.model_copy(update={"limits": limits})
        self.settings, self.share = settings, share or Share()
        self.records = len(source)
        self.blocks = -(-self.records // settings.shard_records)
        self.grid = images.grid(settings.preprocessing.size)
        self.small = self._reduced()
        self.layout = Layout(
            self.grid,
            images.grid(self.small.size) if self.small else None,
            smallest_type(images.codes),
            smallest_type(texts.pieces),
        )

    def _reduced(self) -> Preprocessing | None:
        """The preprocessing of the small images; raises CogViewError if sides are not divisible by
        ``scale``."""
        if not self.settings.super_resolution:
            return None
        large, scale = self.settings.preprocessing, self.settings.scale
        if large.size % scale or any(side % scale for side in self.grid):
            part = "halved" if scale == 2 else f"divided by {scale}"
            raise CogViewError(
                f"images of {large.size} px have {self.grid[0]} x {self.grid[1]} codes, which cannot be "
                f"{part}; choose a --size of which that part is a multiple of the tokenizer's pixels per code"
            )
        return large.model_copy(update={"size": large.size // scale, "crop": "centre"})

    def plan(self) -> str:
        """A hash of everything that determines the result; a build is only resumed under the same plan."""
        left_out = {"batch", "workers", "limits"} | (set() if self.small else {"super_resolution"})
        left_out |= {"scale"} if self.settings.scale == BuildSettings.model_fields["scale"].default else set()
        centre = self.settings.preprocessing.crop == "centre"
        exclude: dict[str, Any] = dict.fromkeys(left_out, True) | (
            {"preprocessing": {"crop"}} if centre else {}
        )
        settings = self.settings.model_dump_json(exclude=exclude)
        unset = SIZES if self.settings.limits.min_side > 1 else SIZES - {"min_side"}
        limits = self.settings.limits.model_dump_json(include=unset)
        parts = [self.source.fingerprint(), self.images.fingerprint, self.texts.fingerprint, settings, limits]
        if self.settings.limits.filters != Filters():
            parts.append(self.settings.limits.filters.model_dump_json())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def start(self, restart: bool = False) -> Journal:
        """Start or resume the build; raises CogViewError if the directory holds anything else."""
        journal = Journal(plan=self.plan(), records=self.records, shard_records=self.settings.shard_records)
        path = self.out / JOURNAL
        if restart:
            if self.share.ranks > 1:
                raise CogViewError(
                    "--restart with several ranks: each would delete the others' work; "
                    f"remove {self.out} before they start"
                )
            self._check_place()
            self._clear()
        elif path.is_file():
            _check_same(journal, path)
            return journal
        else:
            self._check_place()
        self._save(journal)
        return journal

    def _check_place(self) -> None:
        """Raise CogViewError if the directory holds files that are not from a build."""
        if (self.out / JOURNAL).is_file() or not self.out.is_dir():
            return
        foreign = next(filter(_is_foreign, self.out.iterdir()), None)
        if foreign is not None:
            raise CogViewError(
                f"{self.out} is not empty (it holds {readable(foreign.name)}); give a new directory"
            )

    def run(
        self, restart: bool = False, progress: Progress | None = None, spread: Spread | None = None
    ) -> Progressed:
        """Build this rank's missing blocks; the last rank joins all (``report.json`` and the index).

        spread: distributes the blocks over workers, which call :meth:`build_block` of builders with the same
        arguments.

        Raises CogViewError if no record is usable or the source yields fewer records than it has.
        """
        journal = self.start(restart)
        if (self.out / INDEX).is_file():
            return Progressed(self.blocks, self.blocks, read_json(Report, self.out / REPORT))
        mine = range(self.share.rank, self.blocks, self.share.ranks)
        missing = [number for number in mine if not is_done(self.out, number)]
        total = sum(self._size(number) for number in mine)
        before = total - sum(self._size(number) for number in missing)

        def report(done: int) -> None:
            if progress:
                progress(before + done, total)

        if spread is None:
            self._build(journal, missing, report)
        elif missing:
            for done in itertools.accumulate(spread(missing)):
                report(done)
        done = sum(is_done(self.out, number) for number in range(self.blocks))
        return Progressed(done, self.blocks, self._join() if done == self.blocks else None)

    def build_block(self, number: int) -> int:
        """Build one block unless it exists; returns its number of records."""
        if not is_done(self.out, number):
            self._build(self._started, [number], lambda done: None)
        return self._size(number)

    @cached_property
    def _started(self) -> Journal:
        return self.start()

    def _size(self, number: int) -> int:
        """The number of records of a block."""
        return min(self.settings.shard_records, self.records - number * self.settings.shard_records)

    def _join(self) -> Report | None:
        """Join the blocks; None if another process is doing so."""
        with joining(self.out) as here:
            if not here:
                return None
            near = self.settings.limits.filters.near_duplicates
            shards, names, report = join(self.out, self.blocks, self.layout, near)
            if not shards:
                why = ", ".join(f"{count:,} {reason}" for reason, count in report.rejected.items())
                raise CogViewError(
                    f"no usable sample among {self.records:,} records ({why}); see `cogview data check`"
                )
            report.save(self.out / REPORT)
            index = self._index(shards, names, report)
            write_atomically(self.out / INDEX, index.model_dump_json(indent=1) + "\n")
        return report

    def _clear(self) -> None:
        for name in (INDEX, JOURNAL, REPORT):
            (self.out / name).unlink(missing_ok=True)
        for shard in self.out.glob("shard-*"):
            shutil.rmtree(shard)

    def _save(self, journal: Journal) -> None:
        part = self.out / f"{JOURNAL}.part-{uuid.uuid4().hex[:8]}"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            part.write_text(journal.model_dump_json(indent=1) + "\n", encoding="utf-8")
            part.replace(self.out / JOURNAL)
        except OSError as error:
            raise CogViewError(
                f"{self.out} cannot be written: {error.strerror}; give another directory"
            ) from error

    def _build(self, journal: Journal, numbers: Sequence[int], progress: Callable[[int], None]) -> None:
        """Read, encode and write blocks, in order."""
        settings = self.settings
        with Decoders(
            settings.limits, settings.preprocessing, settings.workers, 2 * settings.batch
        ) as decoders:
            readings, names, before = decoders.readings(self._records(numbers)), Names(), 0
            for number in numbers:
                tally, size, looks = Tally(), self._size(number), list[int]()
                samples = self._samples(itertools.islice(readings, size), tally, looks, before, progress)
                items = [item for batch in _batches(samples, settings.batch) for item in self.tokenise(batch)]
                if tally.records != size:
                    raise CogViewError(
                        f"the source ended after {number * settings.shard_records + tally.records:,} of "
                        f"{self.records:,} records; did it change? build again with --restart"
                    )
                names, before = names.with_those_of(tally.report()), before + size
                block = Block(
                    plan=journal.plan,
                    number=number,
                    records=size,
                    names=names,
                    entry=None,
                    report=tally.report(),
                    looks=tuple(looks),
                )
                write_block(self.out, block, items, self.layout)

    def _records(self, numbers: Sequence[int]) -> Iterator[Record]:
        """The records of some blocks; consecutive blocks are read in one pass."""
        size = self.settings.shard_records
        stream: Iterator[Record] = iter(())
        at = -1
        for number in numbers:
            if at != number:
                stream = self.source.records(number * size)
            yield from itertools.islice(stream, self._size(number))
            at = number + 1

    def _samples(
        self,
        readings: Iterator[tuple[Record, Reading]],
        tally: Tally,
        looks: list[int],
        before: int,
        progress: Callable[[int], None],
    ) -> Iterator[Sample]:
        """The good samples of a block; their difference hashes, if computed, are added to ``looks``."""
        seen = set[str]()
        for record, reading in readings:
            reading = reading.unless_in(seen, record)
            tally.add(reading)
            if reading.sample is not None:
                looks += [] if reading.look is None else [reading.look]
                yield reading.sample
            progress(before + tally.records)

    def tokenise(self, samples: Sequence[Sample]) -> list[TokenItem]:
        """Encode the images (in one batch) and captions of samples."""
        codes = self._encode([np.asarray(sample.image) for sample in samples])
        if self.small is None:
            return [self._item(sample, row) for sample, row in zip(samples, codes, strict=True)]
        context = self._encode([square(sample.image, self.small) for sample in samples])
        return [self._item(*parts) for parts in zip(samples, codes, context, strict=True)]

    def _encode(self, pixels: Sequence[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Codes (batch, h * w) of images (size, size, 3)."""
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

    def _index(self, shards: tuple[ShardEntry, ...], names: Names, report: Report) -> ShardIndex:
        return ShardIndex(
            items=sum(entry.items for entry in shards),
            captions=sum(entry.captions for entry in shards),
            grid=self.grid,
            context_grid=self.layout.context_grid,
            codes_type=self.layout.codes_type,
            texts_type=self.layout.texts_type,
            vocabulary=Vocabulary(
                image_codes=self.images.codes, text_pieces=self.texts.pieces, languages=class_runs(self.texts)
            ),
            preprocessing=self.settings.preprocessing,
            image_tokenizer=self.images.fingerprint,
            text_tokenizer=self.texts.fingerprint,
            languages=names.languages,
            sources={name: report.sources.get(name, 0) for name in names.sources},
            splits={name: report.splits.get(name, 0) for name in names.splits},
            shards=shards,
        )


def _batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while batch := list(itertools.islice(samples, size)):
        yield batch


def _is_foreign(path: Path) -> bool:
    """Whether a file cannot be from another rank of this build."""
    return not path.name.startswith((JOURNAL, TRANSLATIONS, "shard-"))


def _check_same(journal: Journal, path: Path) -> None:
    """Raise CogViewError unless the stored journal is that of this build."""
    try:
        stored = read_json(Journal, path)
    except CogViewError as error:
        raise CogViewError(f"{error}; build again with --restart") from error
    if stored != journal:
        raise CogViewError(
            f"{path.parent} was begun from other data, tokenizers or settings; "
            "use those, or --restart to build again"
        )


def build(
    source: Source,
    out: str | Path,
    images: ImageEncoder,
    texts: TextEncoder,
    settings: BuildSettings,
    restart: bool = False,
    progress: Progress | None = None,
) -> TokenShards:
    """Build ``source`` into token shards at ``out``, or resume an interrupted build; returns the opened
    shards.

    ``progress`` is called with (records done, total). Raises CogViewError if ``out`` holds anything else, the
    source changed since the build began, or no record is usable.
    """
    Builder(source, out, images, texts, settings).run(restart, progress)
    return TokenShards(out)
