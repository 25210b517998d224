"""Connection limits for this package's HTTP servers: uvicorn's protocol with timeouts and maximum counts.

A connection has to send the head of a request within a few seconds. If too many connections are waiting for
theirs, the longest-waiting one of the address with the most is closed, so that half-sent requests cannot
block other clients. Beyond a maximum number of connections, per address or in total, requests get 503 with
Retry-After.
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
MAX_WAITING = 128  # connections that have not sent a complete head
MAX_CONNECTIONS = 512
MAX_PER_ADDRESS = 256
RETRY_SECONDS = 5


class LimitedProtocol(H11Protocol):
    """A connection with limits. common_headers: the server's headers, for responses that are sent here."""

    common_headers: Mapping[str, str] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.waiting_since: float | None = time.monotonic()  # for the head of a request
        self.timeout: asyncio.TimerHandle | None = None
        self.address = self.client[0] if self.client else ""
        self._expect_head()
        self._limit_waiting()
        connections = self._open_connections()
        of_address = sum(other.address == self.address for other in connections)
        if len(connections) > MAX_CONNECTIONS or of_address > MAX_PER_ADDRESS:
            self.app = _busy(self.common_headers)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self.timeout is None:  # the start of another request on the same connection
            self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        idle = self.conn.their_state is h11.IDLE and not self.transport.is_closing()
        if idle and self.waiting_since is None:
            self.waiting_since = time.monotonic()  # uvicorn's keep-alive timeout applies to it

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers = {"content-type": "text/plain; charset=utf-8", "connection": "close"}
            self._send(400, b"Invalid HTTP request received.", headers)
        self.transport.close()

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        lines = [(k.lower().encode(), v.encode()) for k, v in {**self.common_headers, **headers}.items()]
        lines.append((b"content-length", str(len(body)).encode()))
        for event in (h11.Response(status_code=status, headers=lines), h11.Data(body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")

    def _open_connections(self) -> list[LimitedProtocol]:
        """The open connections, including this one."""
        connections = (other for other in self.connections if isinstance(other, LimitedProtocol))
        return [other for other in connections if not other.transport.is_closing()]

    def _expect_head(self) -> None:
        self.waiting_since = time.monotonic()
        self.timeout = self.loop.call_later(HEAD_SECONDS, self._time_out)

    def _stop_waiting(self) -> None:
        self.waiting_since = None
        if self.timeout is not None:
            self.timeout.cancel()
            self.timeout = None

    def _time_out(self) -> None:
        """Close the connection: no head arrived in time."""
        self._stop_waiting()
        if not self.transport.is_closing():
            if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
                self._send(408, b"The request did not arrive in time.", {"connection": "close"})
            self.transport.close()

    def _limit_waiting(self) -> None:
        """If too many connections wait for a head, close the oldest one of the address with the most."""
        waiting = [other for other in self._open_connections() if other.waiting_since is not None]
        if len(waiting) > MAX_WAITING:
            [(address, _)] = Counter(other.address for other in waiting).most_common(1)
            candidates = (other for other in waiting if other.address == address)
            oldest = min(candidates, key=lambda other: other.waiting_since or 0.0)
            oldest._stop_waiting()
            oldest.transport.close()


def protocol(headers: Mapping[str, str]) -> type[LimitedProtocol]:
    """The protocol of a server whose responses all have ``headers``; for ``uvicorn.Config(http=...)``."""
    return type("Protocol", (LimitedProtocol,), {"common_headers": dict(headers)})


def _busy(headers: Mapping[str, str]) -> ASGIApp:
    """An application that answers 503 to every request."""
    fields: dict[str, Any] = {**headers, "Retry-After": str(RETRY_SECONDS), "Connection": "close"}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b"too many connections; try again later"
        lines = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
        lines += [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": lines})
        await send({"type": "http.response.body", "body": body})

    return app
