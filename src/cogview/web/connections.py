"""HTTP connections within limits, for this project's servers: uvicorn's protocol with patience that ends.

A connection has a few seconds for the head of a request. Where too many wait for theirs, the one that has
waited longest is closed, of the address that has most of them, so that half-sent requests never shut others
out. Requests beyond a number of connections, of one address or in all, are answered 503 with Retry-After.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import ASGIApp, Receive, Scope, Send

HEAD_SECONDS = 10.0
WAITING = 128  # connections without a whole request
CONNECTIONS = 512
OF_AN_ADDRESS = 256
RETRY_SECONDS = 5


class PatientProtocol(H11Protocol):
    """One connection. ``headers_of_all``: what a server's answers carry, for those that are made here."""

    headers_of_all: Mapping[str, str] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since: float | None = time.monotonic()
        self.late: asyncio.TimerHandle | None = None
        self.address = self.client[0] if self.client else ""
        self._expect_head()
        self._make_room()
        there = self._all()
        own = sum(other.address == self.address for other in there)
        if len(there) > CONNECTIONS or own > OF_AN_ADDRESS:
            self.app = _busy(self.headers_of_all)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self.late is None:  # the beginning of another request on the same connection
            self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing() and self.since is None:
            self.since = time.monotonic()  # uvicorn's own time limit for an idle connection runs

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {"content-type": "text/plain; charset=utf-8", "connection": "close"}
            self._send(400, b"Invalid HTTP request received.", headers)
        self.transport.close()

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        lines = [(k.lower().encode(), v.encode()) for k, v in {**self.headers_of_all, **headers}.items()]
        lines.append((b"content-length", str(len(body)).encode()))
        for event in (h11.Response(status_code=status, headers=lines), h11.Data(body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    def _all(self) -> list[PatientProtocol]:
        """Those that are open, this one among them."""
        found = (other for other in self.connections if isinstance(other, PatientProtocol))
        return [other for other in found if not other.transport.is_closing()]

    def _expect_head(self) -> None:
        self.since = time.monotonic()
        self.late = self.loop.call_later(HEAD_SECONDS, self._close)

    def _stop_waiting(self) -> None:
        self.since = None
        if self.late is not None:
            self.late.cancel()
            self.late = None

    def _close(self) -> None:
        """No head came in time."""
        self._stop_waiting()
        if not self.transport.is_closing():
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                self._send(408, b"The request did not come in time.", {"connection": "close"})
            self.transport.close()

    def _make_room(self) -> None:
        """Close a connection that waits for its head, where too many do."""
        waiting = [other for other in self._all() if other.since is not None]
        if len(waiting) > WAITING:
            [(most, _)] = Counter(other.address for other in waiting).most_common(1)
            oldest = min((o for o in waiting if o.address == most), key=lambda o: o.since or 0.0)
            oldest._stop_waiting()
            oldest.transport.close()


def protocol(headers: Mapping[str, str]) -> type[PatientProtocol]:
    """The protocol of a server whose answers all carry ``headers``; for ``uvicorn.Config(http=...)``."""
    return type("Protocol", (PatientProtocol,), {"headers_of_all": dict(headers)})


def _busy(headers: Mapping[str, str]) -> ASGIApp:
    """Answers that there are too many connections."""
    told: dict[str, Any] = {**headers, "Retry-After": str(RETRY_SECONDS), "Connection": "close"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b"too many connections; try again later"
        lines = [(name.lower().encode(), value.encode()) for name, value in told.items()]
        lines += [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": lines})
        await send({"type": "http.response.body", "body": body})

    return app
