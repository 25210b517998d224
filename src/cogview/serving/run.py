"""Running the server, with graceful shutdown: running requests finish, queued ones are refused."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import uvicorn

from cogview.serving.app import Server, application
from cogview.serving.guard import HEADERS, Rules
from cogview.serving.metrics import Metrics
from cogview.serving.served import Models
from cogview.serving.trainings import Trainings
from cogview.serving.worker import Worker
from cogview.web.connections import protocol
from cogview.web.sockets import ADDRESSES, LOOPBACK, is_loopback, listen

if TYPE_CHECKING:
    from starlette.types import ASGIApp


class GracefulServer(uvicorn.Server):
    """A server that drains and finishes after the first signal and stops at once after the second."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.server = server
        self.loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.server.drain and self.loop is not None and not (self.server.draining or self.should_exit):
            self.server.draining = True
            self.loop.call_soon_threadsafe(self.loop.call_later, self.server.drain, self._drained)
            return
        self.force_exit = self.should_exit or self.server.draining
        self.should_exit = True
        if self.loop is not None:  # refuse queued requests at once, not at uvicorn's next tick
            self.loop.call_soon_threadsafe(self.server.worker.close)

    def _drained(self) -> None:
        """Refuse new requests, but finish the queue."""
        self.server.worker.close(finish=True)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.server.worker.close(self.finishes_queue)
        await super().shutdown(sockets)

    @property
    def finishes_queue(self) -> bool:
        """Whether queued requests are computed before the server stops."""
        return self.server.draining and not self.force_exit


def hosts_for(host: str, keys: bool = True) -> frozenset[str]:
    """Host names that a server accepts: local ones on loopback; otherwise any name if keys are needed.

    Without keys, names that others may have pointed at this machine (DNS rebinding) are not accepted: only
    the machine's host name and IP addresses, which pages of other sites cannot use.
    """
    if is_loopback(host):
        return frozenset({*LOOPBACK, host})
    return frozenset({"*"} if keys else {*LOOPBACK, host.lower(), socket.gethostname().lower(), ADDRESSES})


def serve(server: Server, listener: socket.socket) -> None:
    """Serve until a signal stops the server."""
    running = uvicorn_server(server)
    server.worker.start()
    try:
        running.run(sockets=[listener])
    finally:
        server.worker.close(running.finishes_queue)
        server.worker.join(0 if running.force_exit else None)
        if server.trainings is not None:
            server.trainings.close()


@contextlib.contextmanager
def running(
    models: Models, rules: Rules | None = None, trainings: Trainings | None = None, **limits: Any
) -> Iterator[tuple[str, Server]]:
    """Run a server in the background on a free local port; yields its URL and its :class:`Server`.

    trainings: enables training, and is closed at the end; limits: arguments of
    :class:`~cogview.serving.worker.Worker`.
    """
    metrics = Metrics()
    rules = rules or Rules(hosts_for(LOOPBACK[0]))
    server = Server(models, Worker(metrics, **limits), metrics, rules, trainings=trainings)
    if trainings is not None:
        trainings.serve_in(models)
    listener, http = listen(LOOPBACK[0], 0), uvicorn_server(server)
    thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]}, name="cogview-http")
    server.worker.start()
    thread.start()
    try:
        yield f"http://{LOOPBACK[0]}:{listener.getsockname()[1]}", server
    finally:
        http.should_exit = True
        thread.join()
        server.worker.join()
        if trainings is not None:
            trainings.close()


def uvicorn_server(server: Server) -> GracefulServer:
    """The HTTP server, not yet started."""
    return GracefulServer(http_config(application(server)), server)


def http_config(app: ASGIApp, lifespan: Literal["on", "off"] = "off") -> uvicorn.Config:
    """The uvicorn configuration of all servers of this package."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # requests are private
        server_header=False,
        http=protocol(HEADERS),
        timeout_keep_alive=15,
        ws="none",
        lifespan=lifespan,
    )
