"""Decodes images in other processes, in order, within limits of size, memory and time.

``Decoders`` keeps worker processes (:mod:`cogview.data.decode_worker`) busy slightly ahead of the consumer.
An image whose decoder takes longer than ``Limits.seconds``, or crashes, is rejected like any other bad image;
its process is killed and replaced. With 0 workers images are decoded in this process, which cannot be
interrupted: then only sizes are limited.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import cogview
from cogview.data.decode_worker import answer
from cogview.data.images import Limits
from cogview.data.samples import Sample
from cogview.data.shards import Preprocessing
from cogview.data.sources import Record, Source
from cogview.data.tally import EXCLUDED, Reading, problem
from cogview.errors import CogViewError

START_SECONDS = 60.0
AHEAD = 16  # minimum number of images that a worker decodes ahead of the consumer


def default_workers() -> int:
    """One decoder per core but one, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def workers_for(source: Source) -> int:
    """The default number of workers; fewer for small sources."""
    return min(default_workers(), -(-len(source) // 64))


@dataclass(frozen=True)
class Pixels:
    """An image as input of the image tokenizer: (size, size, 3) uint8.

    conversions: applied to the original; bytes: of its file; side: the original's shorter side in pixels;
    look: its difference hash, if requested.
    """

    pixels: NDArray[np.uint8]
    conversions: tuple[str, ...]
    bytes: int
    side: int
    look: int | None = None


@dataclass(frozen=True)
class Refused:
    """Why an image cannot be used."""

    reason: str
    message: str


class Decoders:
    """Decodes images in ``workers`` processes; a context manager.

    preprocessing: how images are made square. ahead: how many images are decoded ahead of the consumer.
    """

    def __init__(self, limits: Limits, preprocessing: Preprocessing, workers: int, ahead: int = 0) -> None:
        self.limits, self.preprocessing, self.workers = limits, preprocessing, workers
        self.ahead = max(ahead, AHEAD * workers)
        self._children: dict[int, _Child] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        if self.workers:
            self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="decoder")
            threading.Thread(target=self._watch, daemon=True, name="decoder-watch").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._closed.set()
        for child in list(self._children.values()):
            child.end()
        if self._threads:
            self._threads.shutdown(wait=True, cancel_futures=True)
        for child in list(self._children.values()):
            child.end()

    def readings(
        self, records: Iterable[Record], need_caption: bool = True
    ) -> Iterator[tuple[Record, Reading]]:
        """Each record with its reading, in order, with square images.

        Duplicates are not detected (see :meth:`~cogview.data.tally.Reading.unless_in`).
        """
        waiting: deque[tuple[Record, Future[Pixels | Refused]]] = deque()
        source = iter(records)
        while True:
            for record in islice(source, self.ahead + 1 - len(waiting)):
                waiting.append((record, self._start(record, need_caption)))
            if not waiting:
                return
            record, future = waiting.popleft()
            yield record, _reading(record, future.result())

    def _start(self, record: Record, need_caption: bool) -> Future[Pixels | Refused]:
        """Start decoding the image of a record."""
        defect = problem(record, need_caption) or self._excluded(record)
        if defect is None and self._threads:
            return self._threads.submit(self._decode, record.image)
        future: Future[Pixels | Refused] = Future()
        future.set_result(Refused(*defect) if defect else _result(self._decode_here(record.image)))
        return future

    def _excluded(self, record: Record) -> tuple[str, str] | None:
        word = self.limits.filters.excluded(record.captions)
        return None if word is None else (EXCLUDED, f"a caption has {word!r}")

    def _decode_here(self, image: bytes | Path | None) -> tuple[Any, ...]:
        assert image is not None
        return answer(image, self.limits, self.preprocessing)

    def _decode(self, image: bytes | Path | None) -> Pixels | Refused:
        """Decode in the process of this thread; each thread of the pool has one."""
        thread = threading.get_ident()
        child = self._children.get(thread)
        if child is None:
            child = self._children[thread] = _Child(self.limits, self.preprocessing)
        result = child.ask(image)
        if child.over:
            del self._children[thread]
        return result

    def _watch(self) -> None:
        """Kill processes that take too long."""
        while not self._closed.wait(min(0.1, self.limits.seconds / 4)):
            for child in list(self._children.values()):
                child.end_if_late()


class _Child:
    """One decoding process."""

    def __init__(self, limits: Limits, preprocessing: Preprocessing) -> None:
        self.limits, self.over, self.late = limits, False, False
        self._since: float | None = None
        package = str(Path(cogview.__file__).parents[1])
        path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cogview.data.decode_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        began = time.monotonic()
        if self._exchange((limits, preprocessing)) is None:
            self.end()
            took = f"after {time.monotonic() - began:.0f} s"
            raise CogViewError(f"a decoding process did not start ({took}); try --workers 0")

    def ask(self, image: bytes | Path | None) -> Pixels | Refused:
        """Decode one image; sets ``over`` if the process does not answer."""
        self._since = time.monotonic()
        values = self._exchange(image)
        self._since = None
        if values is not None:
            return _result(values)
        self.end()
        if self.late:
            return Refused("too slow", f"decoding took longer than {self.limits.seconds:g} s")
        return Refused("decoder crashed", f"its process ended with {self._process.returncode}")

    def _exchange(self, value: object) -> tuple[Any, ...] | None:
        """Send a value and receive the answer; None if the process has ended."""
        assert self._process.stdin and self._process.stdout
        try:
            pickle.dump(value, self._process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
            values: tuple[Any, ...] = pickle.load(self._process.stdout)
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):
            return None
        return values

    def end_if_late(self) -> None:
        """Kill the process if its image takes too long."""
        if self._since is not None and time.monotonic() - self._since > self.limits.seconds:
            self.late = True
            self._process.kill()

    def end(self) -> None:
        """Kill the process."""
        self.over = True
        self._process.kill()
        self._process.wait()


def _result(values: tuple[Any, ...]) -> Pixels | Refused:
    return Refused(*values[1:]) if values[0] == "bad" else Pixels(*values[1:])


def _reading(record: Record, result: Pixels | Refused) -> Reading:
    if isinstance(result, Refused):
        return Reading.refused(record, result.reason, result.message)
    sample = Sample(record.key, Image.fromarray(result.pixels), record.captions, record.source, record.split)
    return Reading(
        sample,
        conversions=result.conversions,
        bytes=result.bytes,
        side=result.side,
        look=result.look,
    )
