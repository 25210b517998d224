"""A cache of decoded images, for training an image tokenizer without waiting for decoders.

A directory with ``images.bin`` (N, size, size, 3) uint8 and ``images.json`` (:class:`CacheIndex`). The index
is written last; without it the cache is incomplete.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import Tensor

from cogview.config import Config
from cogview.data.decoders import Decoders
from cogview.data.filters import Filters, Lookalikes
from cogview.data.images import Limits
from cogview.data.samples import Sample
from cogview.data.shards import Preprocessing, name_positions, write_atomically
from cogview.data.sources import Source
from cogview.data.tally import Report, Tally
from cogview.errors import CogViewError
from cogview.files import load_json, readable, replacing

INDEX = "images.json"
MAX_INDEX = 1 << 30  # bytes
PIXELS = "images.bin"


Number = Annotated[int, Field(ge=0, lt=1 << 31)]


class CacheIndex(Config):
    """The contents of ``images.bin``; ``keys``, ``item_sources`` and ``item_splits`` have one entry per
    item."""

    version: Literal[1] = 1
    plan: str
    preprocessing: Preprocessing
    sources: tuple[str, ...]
    splits: tuple[str, ...]
    keys: tuple[str, ...]
    item_sources: tuple[Number, ...]
    item_splits: tuple[Number, ...]
    report: Report


class ImageCache:
    """Random access to the cached images; raises CogViewError if files are missing or inconsistent."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.index = _read_index(self.directory)
        self.sources, self.splits, self.keys = self.index.sources, self.index.splits, self.index.keys
        self.item_sources = np.array(self.index.item_sources, dtype=np.int64)
        self.item_splits = np.array(self.index.item_splits, dtype=np.int64)
        self.size = self.index.preprocessing.size
        self._check()
        self.pixels = self._map()

    def _check(self) -> None:
        """Raise CogViewError for an inconsistent index."""
        items = len(self.keys)
        for numbers, names in ((self.item_sources, self.sources), (self.item_splits, self.splits)):
            valid = len(numbers) == items and (not items or 0 <= numbers.min() <= numbers.max() < len(names))
            if not valid:
                raise CogViewError(f"{self.directory / INDEX} is damaged: a source or split is not there")

    def _map(self) -> NDArray[np.uint8]:
        shape = (len(self.keys), self.size, self.size, 3)
        path, expected = self.directory / PIXELS, math.prod(shape)
        size = path.stat().st_size if path.is_file() else 0
        if size != expected:
            raise CogViewError(
                f"{path} is truncated or damaged: {size} bytes instead of {expected}; build it again"
            )
        return np.memmap(path, np.uint8, "r", shape=shape)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fingerprint(self) -> str:
        """Changes when the images or their order may have changed."""
        names = hashlib.sha256("\n".join(self.keys).encode()).hexdigest()
        return f"{self.index.plan} {names}"

    def select(
        self, splits: Sequence[str] | None = None, sources: Sequence[str] | None = None
    ) -> NDArray[np.int64]:
        """Numbers of the items in the given splits and sources (None = all), ascending, int64."""
        selected = np.ones(len(self), dtype=bool)
        if splits is not None:
            selected &= np.isin(self.item_splits, name_positions(splits, self.splits, self.directory))
        if sources is not None:
            selected &= np.isin(self.item_sources, name_positions(sources, self.sources, self.directory))
        return np.flatnonzero(selected)

    def images(self, items: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """Images (len(items), 3, size, size) uint8."""
        pixels = self.pixels[np.asarray(items, dtype=np.int64)]
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


def _read_index(directory: Path) -> CacheIndex:
    path = directory / INDEX
    try:
        if not path.exists():
            raise CogViewError(f"no image cache in {directory}; build it first")
        return CacheIndex.model_validate(load_json(path, MAX_INDEX))
    except ValidationError as error:
        raise CogViewError(f"{path} is damaged: {error.errors()[0]['msg']}; build the cache again") from error


def build_image_cache(
    source: Source,
    out: str | Path,
    preprocessing: Preprocessing,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int = 0,
) -> ImageCache:
    """Decode every good record of ``source`` into a cache at ``out``, or open an existing one.

    A cache of other data or another size is built again. With ``workers`` images are decoded in that many
    processes, where limits of time and memory apply. Raises CogViewError if no record is usable.
    """
    out, limits = Path(out), limits or Limits()
    crop = {"crop"} if preprocessing.crop == "centre" else set()
    filters = {"filters"} if limits.filters == Filters() else set()
    settings = preprocessing.model_dump_json(exclude=crop) + limits.model_dump_json(exclude=filters)
    plan = hashlib.sha256(f"{source.fingerprint()}\n{settings}".encode()).hexdigest()
    if (out / INDEX).is_file() and _read_index(out).plan == plan:
        return ImageCache(out)
    _check_place(out)
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / PIXELS) as part:
        with Decoders(limits, preprocessing, workers) as decoders:
            samples, report = _write_pixels(source, part, decoders, progress)
        if not samples:
            raise CogViewError(
                f"no usable image among {len(source):,} records; `cogview data check` says why"
            )
        (out / INDEX).unlink(missing_ok=True)  # the old cache stays valid until here
    index = _index(plan, preprocessing, samples, report)
    write_atomically(out / INDEX, index.model_dump_json() + "\n")
    return ImageCache(out)


def _check_place(out: Path) -> None:
    """Raise CogViewError if ``out`` exists and is neither empty nor a cache."""
    if out.exists() and not out.is_dir():
        raise CogViewError(f"{out} exists and is not a directory; give another one")
    if out.is_dir() and not (out / INDEX).is_file():
        known = {PIXELS, f"{PIXELS}.part"}
        foreign = next((path for path in out.iterdir() if path.name not in known), None)
        if foreign is not None:
            raise CogViewError(
                f"{out} is not empty (it holds {readable(foreign.name)}); give a new directory"
            )


def _write_pixels(
    source: Source,
    path: Path,
    decoders: Decoders,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[tuple[str, str, str]], Report]:
    """Write all good images; returns their (key, source, split) and the report."""
    tally, seen, written = Tally(), set[str](), list[tuple[str, str, str]]()
    total = len(source)
    near = decoders.limits.filters.near_duplicates
    hashes = None if near is None else Lookalikes(near)
    with path.open("wb") as file:
        for record, reading in decoders.readings(source.records(), need_caption=False):
            reading = reading.unless_in(seen, record).unless_like(hashes, record)
            tally.add(reading)
            if reading.sample is not None:
                file.write(np.asarray(reading.sample.image).tobytes())
                written.append(_names(reading.sample))
            if progress:
                progress(tally.records, total)
        file.flush()
        os.fsync(file.fileno())
    return written, tally.report()


def _names(sample: Sample) -> tuple[str, str, str]:
    return sample.key, sample.source, sample.split


def _index(
    plan: str, preprocessing: Preprocessing, samples: list[tuple[str, str, str]], report: Report
) -> CacheIndex:
    keys, sources, splits = zip(*samples, strict=True)
    source_names, split_names = tuple(dict.fromkeys(sources)), tuple(dict.fromkeys(splits))
    source_numbers = {name: number for number, name in enumerate(source_names)}
    split_numbers = {name: number for number, name in enumerate(split_names)}
    return CacheIndex(
        plan=plan,
        preprocessing=preprocessing,
        sources=source_names,
        splits=split_names,
        keys=keys,
        item_sources=tuple(source_numbers[name] for name in sources),
        item_splits=tuple(split_numbers[name] for name in splits),
        report=report,
    )
