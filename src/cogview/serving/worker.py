"""The single compute thread and its request queue.

Requests become tickets. The thread takes the oldest ticket together with those that can be computed in the
same batch (:class:`Job`) and sends results to each ticket's event loop. A ticket is cancelled when its client
disconnects or its time limit expires. The queue is short, so that an overloaded server refuses requests at
once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from opentelemetry.context import get_current

from cogview.errors import CogViewError, OutOfMemory, ran_out
from cogview.pipelines.base import GeneratedImage
from cogview.serving.api_errors import RATE_LIMIT_ERROR, SERVER_ERROR, ApiError
from cogview.serving.metrics import Metrics
from cogview.serving.quotas import CALLER
from cogview.serving.tracing import compute_spans, record_wait

log = logging.getLogger(__name__)

RECENT = 20  # number of recent computations averaged for Retry-After


class Stopped(BaseException):
    """Raised inside a computation when no client waits for its result."""


@dataclass(frozen=True)
class FinishedImage:
    """A finished image; number: its index in the request."""

    number: int
    generated: GeneratedImage


class Job(Protocol):
    """The computation for one request."""

    @property
    def size(self) -> int:
        """Number of images that are generated at the same time."""

    @property
    def key(self) -> Hashable | None:
        """Jobs with equal keys can be computed in one batch; None: never with others."""

    @property
    def kind(self) -> Hashable:
        """The time of jobs of one kind is proportional to their ``weight``."""

    @property
    def weight(self) -> int:
        """Amount of computation, in units of the kind."""

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Compute the jobs of these tickets in the worker's thread and emit their results."""


class Ticket:
    """A request that waits or is being computed.

    It is created in an event loop, which receives its events in order.
    """

    def __init__(self, job: Job, seconds: float, metrics: Metrics, name: str | None = None) -> None:
        self.job, self.metrics, self.seconds, self.name = job, metrics, seconds, name
        self.created = self.last_progress = time.monotonic()
        self.started: float | None = None  # start time of its computation
        self.cancelled = self.ended = False
        self.context, self.since = get_current(), time.time_ns()  # its trace's context; time of arrival
        self.progress = 0.0  # of its computation, from 0 to 1
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    @property
    def alive(self) -> bool:
        """Whether a client still waits for it."""
        # Tickets whose events() is never read are not cancelled there.
        expired = time.monotonic() > self.last_progress + self.seconds + 1
        return not (self.cancelled or self.ended or expired)

    def touch(self, progress: float | None = None) -> None:
        """Record progress; this restarts the ticket's time limit."""
        self.last_progress = time.monotonic()
        if progress is not None:
            self.progress = progress

    def emit(self, event: Any) -> None:
        """Send a part of the result to the event loop; may be called from any thread."""
        self.touch()
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed
            self.cancelled = True

    def end(self, error: ApiError | None = None) -> None:
        """End the ticket, with ``error`` if it failed; further calls do nothing."""
        if not self.ended:
            self.ended = True
            self.emit(_End(error))

    async def events(self) -> AsyncGenerator[Any, None]:
        """Yield what is emitted, until the end.

        Raises:
            ApiError: the computation failed, or made no progress within the time limit (504). A 504 has no
                Retry-After: the server would compute the request from the start.
        """
        try:
            while True:
                left = self.last_progress + self.seconds - time.monotonic()
                try:
                    event = await asyncio.wait_for(self._events.get(), max(0.0, left))
                except TimeoutError:
                    if time.monotonic() < self.last_progress + self.seconds:
                        continue
                    self._cancel("timeout")
                    message = f"no progress for {self.seconds:g} s; request fewer images, or try again later"
                    raise ApiError(504, message, kind=SERVER_ERROR, code="timeout") from None
                if isinstance(event, _End):
                    if event.error is not None:
                        raise event.error
                    return
                yield event
        finally:
            self._cancel("client")

    def _cancel(self, reason: str) -> None:
        if self.alive:
            self.cancelled = True
            self.metrics.add("cogview_cancelled_total", reason=reason)


@dataclass(frozen=True)
class QueueStatus:
    """Where a request is; the fields are those of ``GET /v1/queue``.

    place: 0 while it is computed, else its position in the queue, from 1; elapsed: seconds since it arrived;
    left: estimated seconds until it is done, or None if unknown; progress: of its computation, from 0 to 1.
    """

    place: int
    elapsed: float
    left: float | None
    progress: float


class _End:
    def __init__(self, error: ApiError | None) -> None:
        self.error = error


class Worker:
    """The compute thread and its queue.

    queue: maximum number of waiting requests; seconds: time without progress after which a request is
    cancelled; together: maximum number of images of several requests in one batch.
    """

    def __init__(self, metrics: Metrics, queue: int = 32, seconds: float = 300.0, together: int = 16) -> None:
        self.metrics, self.queue, self.seconds, self.together = metrics, queue, seconds, together
        self.running: list[Ticket] = []
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._durations: deque[float] = deque([1.0], RECENT)
        self._seconds_per_unit: dict[Hashable, float] = {}  # by kind of job
        self._thread = threading.Thread(target=self._work, name="cogview-worker", daemon=True)
        metrics.gauge("cogview_waiting_requests", lambda: self.waiting)
        metrics.gauge("cogview_running_requests", lambda: len(self.running))

    @property
    def waiting(self) -> int:
        """Number of requests in the queue, without cancelled ones."""
        return sum(ticket.alive for ticket in list(self._waiting))

    @property
    def closed(self) -> bool:
        """Whether new requests are refused because the server is stopping."""
        return self._closed

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job, name: str | None = None) -> Ticket:
        """Put a request into the queue.

        Its images are charged to the API key of the request (:data:`~cogview.serving.quotas.CALLER`).
        name: under which the client queries :meth:`status`.

        Raises:
            ApiError: 429 if the queue is full or the key's quota exceeded, 503 if the server is stopping.
        """
        caller = CALLER.get()
        with self._changed:
            if self._closed:
                raise _stopping()
            self._waiting = deque(ticket for ticket in self._waiting if ticket.alive)
            if len(self._waiting) >= self.queue:
                message = f"the queue is full ({len(self._waiting)} requests are waiting); try again later"
                later = self._retry_after()
                raise ApiError(429, message, kind=RATE_LIMIT_ERROR, code="queue_full", retry_after=later)
            if caller is not None:
                caller.charge(job.size)
                self.metrics.add("cogview_asked_total", job.size, key=caller.key.name)
            ticket = Ticket(job, self.seconds, self.metrics, name)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def status(self, names: Collection[str]) -> dict[str, QueueStatus]:
        """Status of the requests of these names, without finished or unknown ones."""
        with self._changed:
            running, waiting = list(self.running), [ticket for ticket in self._waiting if ticket.alive]
        now, statuses = time.monotonic(), dict[str, QueueStatus]()
        left = self._seconds_left(running, now)
        for ticket in running:
            if ticket.name is not None and ticket.name in names and ticket.alive:
                statuses[ticket.name] = QueueStatus(0, now - ticket.created, left, ticket.progress)
        for position, ticket in enumerate(waiting, 1):
            expected = self._expected_seconds([ticket])
            left = None if left is None or expected is None else left + expected
            if ticket.name is not None and ticket.name in names:
                statuses[ticket.name] = QueueStatus(position, now - ticket.created, left, 0.0)
        return statuses

    def _expected_seconds(self, tickets: Sequence[Ticket]) -> float | None:
        """Expected computing time of these tickets; None before a job of their kind was computed."""
        paces = [self._seconds_per_unit.get(ticket.job.kind) for ticket in tickets]
        known = [
            pace * ticket.job.weight for pace, ticket in zip(paces, tickets, strict=True) if pace is not None
        ]
        return sum(known) if len(known) == len(tickets) else None

    def _seconds_left(self, running: Sequence[Ticket], now: float) -> float | None:
        """Expected time until the running tickets are done."""
        expected = self._expected_seconds(running)
        started = min((ticket.started for ticket in running if ticket.started is not None), default=now)
        return None if expected is None else max(0.0, expected - (now - started))

    def _retry_after(self) -> int:
        """Expected seconds until about half of the queue is done."""
        mean = sum(self._durations) / len(self._durations)
        return max(1, min(600, round(mean * len(self._waiting) / 2)))

    def close(self, finish: bool = False) -> None:
        """Refuse new requests, and waiting ones unless ``finish``; the running batch is always finished."""
        with self._changed:
            self._closed = True
            rejected: list[Ticket] = []
            if not finish:
                rejected, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        for ticket in rejected:
            ticket.end(_stopping())

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end; call :meth:`close` first."""
        self._thread.join(timeout)

    def _work(self) -> None:
        while tickets := self._next_batch():
            started = time.monotonic()
            for ticket in tickets:
                ticket.started = started
                self.metrics.observe("cogview_wait_seconds", started - ticket.created)
                record_wait(ticket.context, ticket.since, time.time_ns())
            self.running = tickets
            try:
                with compute_spans([(ticket.context, ticket.job.size) for ticket in tickets]):
                    complete = self._compute(tickets)
            finally:
                self.running = []
            self._durations.append(time.monotonic() - started)
            if complete:
                self._record_duration(tickets, self._durations[-1])
            self.metrics.observe("cogview_run_seconds", self._durations[-1])

    def _record_duration(self, tickets: Sequence[Ticket], seconds: float) -> None:
        """Update the time for this kind of job: the mean of the previous value and the latest one."""
        kind, pace = tickets[0].job.kind, seconds / sum(ticket.job.weight for ticket in tickets)
        self._seconds_per_unit[kind] = (self._seconds_per_unit.get(kind, pace) + pace) / 2

    def _next_batch(self) -> list[Ticket]:
        """The oldest ticket and those that can be computed with it.

        Waits for a ticket; returns an empty list when the worker is closed and the queue empty.
        """
        with self._changed:
            while True:
                self._waiting = deque(ticket for ticket in self._waiting if ticket.alive)
                if self._waiting:
                    return self._take_batch()
                if self._closed:
                    return []
                self._changed.wait()

    def _take_batch(self) -> list[Ticket]:
        first = self._waiting.popleft()
        batch, size, key = [first], first.job.size, first.job.key
        for ticket in list(self._waiting):
            if key is not None and ticket.job.key == key and size + ticket.job.size <= self.together:
                batch.append(ticket)
                size += ticket.job.size
                self._waiting.remove(ticket)
        return batch

    def _compute(self, tickets: Sequence[Ticket]) -> bool:
        """Run the jobs; every ticket ends, and no error ends the thread. Returns whether all completed."""
        error: ApiError | None = None
        complete = False
        try:
            tickets[0].job.run(tickets)
            complete = not any(ticket.cancelled for ticket in tickets)
        except Stopped:
            pass
        except ApiError as raised:
            error = raised
        except OutOfMemory as raised:
            error = self._count_failure(
                ApiError(503, str(raised), kind=SERVER_ERROR, code=raised.code, retry_after=60)
            )
        except CogViewError as raised:
            error = ApiError(400, str(raised))
        except Exception as raised:  # a bug or a hardware fault: details go to the log, not to the client
            log.exception("a computation failed")
            if ran_out(raised):
                error = ApiError(
                    503, "out of memory", kind=SERVER_ERROR, code="out_of_memory", retry_after=60
                )
            else:
                message = "the server failed; see its log for the cause"
                error = ApiError(500, message, kind=SERVER_ERROR, code="internal")
            self._count_failure(error)
        for ticket in tickets:
            ticket.end(error)
        return complete

    def _count_failure(self, error: ApiError) -> ApiError:
        self.metrics.add("cogview_failures_total")
        return error


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", kind=SERVER_ERROR, code="stopping", retry_after=30)
