"""Prefetching: a thread loads the next micro-batches while the device processes the current one."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import Any

POLL = 0.1  # seconds between checks of the stop event


class Prefetch:
    """Iterates over ``source`` with up to ``depth`` items fetched in advance (0: none, and no thread).

    Each item contains its loader state, so items fetched but not used are simply fetched again on resume. An
    error in ``source`` is raised at the position of the item.
    """

    def __init__(self, source: Iterator[Any], depth: int) -> None:
        self._source, self._depth = iter(source), depth
        self._queue: Queue[tuple[str, Any]] = Queue(max(1, depth))
        self._stop = Event()
        self._thread = Thread(target=self._work, daemon=True, name="prefetch")
        if depth:
            self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._depth:
            return next(self._source)
        kind, value = self._take()
        if kind == "item":
            return value
        raise value

    def close(self) -> None:
        """Stop fetching."""
        self._stop.set()
        if self._depth:
            self._thread.join(timeout=5)

    def _take(self) -> tuple[str, Any]:
        while True:
            try:
                return self._queue.get(timeout=POLL)
            except Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise StopIteration from None

    def _work(self) -> None:
        try:
            for item in self._source:
                if not self._put(("item", item)):
                    return
            self._put(("error", StopIteration()))
        except Exception as error:  # raised again in __next__
            self._put(("error", error))

    def _put(self, entry: tuple[str, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=POLL)
            except Full:
                continue
            return True
        return False
