"""The one thread that computes, and the queue before it.

Requests become tickets. The thread takes the oldest and with it those that can be computed together
(:class:`Job`); what it finds it hands to each ticket's event loop. A ticket whose client is gone, or whose
time is over, is not computed any further. The queue is short: a server that cannot keep up says so at once.
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
from cogview.serving.api_errors import OURS, OVERLOADED, ApiError
from cogview.serving.metrics import Metrics
from cogview.serving.quotas import CALLER
from cogview.serving.tracing import computing, waited

log = logging.getLogger(__name__)

RECENT = 20  # computations of which the mean time is taken, for Retry-After


class Stopped(BaseException):
    """Raised inside a computation that nobody waits for any more."""


@dataclass(frozen=True)
class Made:
    """A finished image: which one of the request."""

    number: int
    picture: GeneratedImage


class Job(Protocol):
    """What is to be computed for one request."""

    @property
    def size(self) -> int:
        """How many images are drawn at the same time."""

    @property
    def key(self) -> Hashable | None:
        """Jobs with equal keys can be computed together; None: alone."""

    @property
    def kind(self) -> Hashable:
        """Jobs of one kind take about as long, in proportion to their ``weight``."""

    @property
    def weight(self) -> int:
        """How much there is to compute, in units of the kind."""

    def run(self, tickets: Sequence[Ticket]) -> None:
        """Compute the jobs of these tickets, in the worker's thread, and emit what comes."""


class Ticket:
    """A request in the queue or being computed. Made in its event loop; events come out there in order."""

    def __init__(self, job: Job, seconds: float, metrics: Metrics, name: str | None = None) -> None:
        self.job, self.metrics, self.seconds, self.name = job, metrics, seconds, name
        self.made = self.touched = time.monotonic()
        self.begun: float | None = None  # when its computation was
        self.cancelled = self.ended = False
        self.context, self.since = get_current(), time.time_ns()  # of the trace that it belongs to
        self.progress = 0.0  # of its computation, from 0 to 1
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    @property
    def alive(self) -> bool:
        """Whether anyone waits for it."""
        late = time.monotonic() > self.touched + self.seconds + 1  # for those that nobody ever listened to
        return not (self.cancelled or self.ended or late)

    def touch(self, progress: float | None = None) -> None:
        """There is progress: the time until it is given up begins again."""
        self.touched = time.monotonic()
        if progress is not None:
            self.progress = progress

    def emit(self, event: Any) -> None:
        """Hand over a part of the result, from any thread."""
        self.touch()
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed, nobody listens
            self.cancelled = True

    def end(self, error: ApiError | None = None) -> None:
        """That was all, or what went wrong; further calls do nothing."""
        if not self.ended:
            self.ended = True
            self.emit(_End(error))

    async def events(self) -> AsyncGenerator[Any, None]:
        """What is emitted, until the end. ApiError for what went wrong, and after so long without progress.

        That one is not to be tried again by itself: the server would begin from the start.
        """
        try:
            while True:
                left = self.touched + self.seconds - time.monotonic()
                try:
                    event = await asyncio.wait_for(self._events.get(), max(0.0, left))
                except TimeoutError:
                    if time.monotonic() < self.touched + self.seconds:
                        continue
                    self._give_up("timeout")
                    message = f"no progress for {self.seconds:g} s; ask for less, or later"
                    raise ApiError(504, message, kind=OURS, code="timeout") from None
                if isinstance(event, _End):
                    if event.error is not None:
                        raise event.error
                    return
                yield event
        finally:
            self._give_up("client")

    def _give_up(self, reason: str) -> None:
        if self.alive:
            self.cancelled = True
            self.metrics.add("cogview_cancelled_total", reason=reason)


@dataclass(frozen=True)
class Place:
    """Where a request is: 0 while it is computed, else its number in the queue.

    elapsed: seconds since it came; left: seconds until it is probably done, None where nothing is known;
    progress: of its computation, from 0 to 1.
    """

    place: int
    elapsed: float
    left: float | None
    progress: float


class _End:
    def __init__(self, error: ApiError | None) -> None:
        self.error = error


class Worker:
    """The thread and its queue.

    queue: how many requests may wait; seconds: without progress, after which a request is given up;
    together: the most images of several requests to draw at a time.
    """

    def __init__(self, metrics: Metrics, queue: int = 32, seconds: float = 300.0, together: int = 16) -> None:
        self.metrics, self.queue, self.seconds, self.together = metrics, queue, seconds, together
        self.running: list[Ticket] = []
        self._waiting: deque[Ticket] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._took: deque[float] = deque([1.0], RECENT)
        self._paces: dict[Hashable, float] = {}  # seconds for a unit of each kind of job
        self._thread = threading.Thread(target=self._work, name="cogview-worker", daemon=True)
        metrics.gauge("cogview_waiting_requests", lambda: self.waiting)
        metrics.gauge("cogview_running_requests", lambda: len(self.running))

    @property
    def waiting(self) -> int:
        """How many requests are in the queue and still wanted."""
        return sum(ticket.alive for ticket in list(self._waiting))

    @property
    def closed(self) -> bool:
        """Whether new requests are refused because the server is about to stop."""
        return self._closed

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, job: Job, name: str | None = None) -> Ticket:
        """Put a request into the queue; ApiError 429 where it is full, 503 where the server stops.

        It counts towards the quota of the key that it came with (:data:`~cogview.serving.quotas.CALLER`).
        name: what its client asks for its place by (:meth:`places`).
        """
        caller = CALLER.get()
        with self._changed:
            if self._closed:
                raise _stopping()
            self._waiting = deque(ticket for ticket in self._waiting if ticket.alive)
            if len(self._waiting) >= self.queue:
                message = f"{len(self._waiting)} requests are waiting, as many as may; try again later"
                later = self._retry_after()
                raise ApiError(429, message, kind=OVERLOADED, code="queue_full", retry_after=later)
            if caller is not None:
                caller.charge(job.size)
                self.metrics.add("cogview_asked_total", job.size, key=caller.key.name)
            ticket = Ticket(job, self.seconds, self.metrics, name)
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def places(self, names: Collection[str]) -> dict[str, Place]:
        """Where the requests of these names are; what is finished or unknown is left out."""
        with self._changed:
            running, waiting = list(self.running), [ticket for ticket in self._waiting if ticket.alive]
        now, found = time.monotonic(), dict[str, Place]()
        ahead = self._left(running, now)
        for ticket in running:
            if ticket.name is not None and ticket.name in names and ticket.alive:
                found[ticket.name] = Place(0, now - ticket.made, ahead, ticket.progress)
        for number, ticket in enumerate(waiting, 1):
            own = self._expected([ticket])
            ahead = None if ahead is None or own is None else ahead + own
            if ticket.name is not None and ticket.name in names:
                found[ticket.name] = Place(number, now - ticket.made, ahead, 0.0)
        return found

    def _expected(self, tickets: Sequence[Ticket]) -> float | None:
        """Seconds that these take; None where nothing of their kind was computed yet."""
        paces = [self._paces.get(ticket.job.kind) for ticket in tickets]
        known = [
            pace * ticket.job.weight for pace, ticket in zip(paces, tickets, strict=True) if pace is not None
        ]
        return sum(known) if len(known) == len(tickets) else None

    def _left(self, running: Sequence[Ticket], now: float) -> float | None:
        """Seconds until what is being computed is done."""
        expected = self._expected(running)
        begun = min((ticket.begun for ticket in running if ticket.begun is not None), default=now)
        return None if expected is None else max(0.0, expected - (now - begun))

    def _retry_after(self) -> int:
        """Seconds until about half of the queue is done."""
        mean = sum(self._took) / len(self._took)
        return max(1, min(600, round(mean * len(self._waiting) / 2)))

    def close(self, finish: bool = False) -> None:
        """Refuse what comes, and what waits unless that is to ``finish``; what is being computed is."""
        with self._changed:
            self._closed = True
            refused: list[Ticket] = []
            if not finish:
                refused, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        for ticket in refused:
            ticket.end(_stopping())

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end, after :meth:`close`."""
        self._thread.join(timeout)

    def _work(self) -> None:
        while tickets := self._next():
            started = time.monotonic()
            for ticket in tickets:
                ticket.begun = started
                self.metrics.observe("cogview_wait_seconds", started - ticket.made)
                waited(ticket.context, ticket.since, time.time_ns())
            self.running = tickets
            try:
                with computing([(ticket.context, ticket.job.size) for ticket in tickets]):
                    whole = self._compute(tickets)
            finally:
                self.running = []
            self._took.append(time.monotonic() - started)
            if whole:
                self._learn(tickets, self._took[-1])
            self.metrics.observe("cogview_run_seconds", self._took[-1])

    def _learn(self, tickets: Sequence[Ticket], seconds: float) -> None:
        """Note how long a kind of job takes, the latest counting half."""
        kind, pace = tickets[0].job.kind, seconds / sum(ticket.job.weight for ticket in tickets)
        self._paces[kind] = (self._paces.get(kind, pace) + pace) / 2

    def _next(self) -> list[Ticket]:
        """The oldest ticket and those that go with it; waits for one; none when closed."""
        with self._changed:
            while True:
                self._waiting = deque(ticket for ticket in self._waiting if ticket.alive)
                if self._waiting:
                    return self._take()
                if self._closed:
                    return []
                self._changed.wait()

    def _take(self) -> list[Ticket]:
        first = self._waiting.popleft()
        taken, size, key = [first], first.job.size, first.job.key
        for ticket in list(self._waiting):
            if key is not None and ticket.job.key == key and size + ticket.job.size <= self.together:
                taken.append(ticket)
                size += ticket.job.size
                self._waiting.remove(ticket)
        return taken

    def _compute(self, tickets: Sequence[Ticket]) -> bool:
        """Run the jobs; whatever happens, every ticket ends and the thread goes on. Whether all was done."""
        error: ApiError | None = None
        whole = False
        try:
            tickets[0].job.run(tickets)
            whole = not any(ticket.cancelled for ticket in tickets)
        except Stopped:
            pass
        except ApiError as refused:
            error = refused
        except OutOfMemory as wrong:
            error = self._failed(ApiError(503, str(wrong), kind=OURS, code=wrong.code, retry_after=60))
        except CogViewError as wrong:
            error = ApiError(400, str(wrong))
        except Exception as wrong:  # a bug, or a broken machine: told in the log, not to the client
            log.exception("a computation failed")
            if ran_out(wrong):
                error = ApiError(503, "out of memory", kind=OURS, code="out_of_memory", retry_after=60)
            else:
                error = ApiError(500, "the server failed; its log says how", kind=OURS, code="internal")
            self._failed(error)
        for ticket in tickets:
            ticket.end(error)
        return whole

    def _failed(self, error: ApiError) -> ApiError:
        self.metrics.add("cogview_failures_total")
        return error


def _stopping() -> ApiError:
    return ApiError(503, "the server is stopping", kind=OURS, code="stopping", retry_after=30)
