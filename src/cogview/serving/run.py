"""Listening, and stopping well: what runs is finished, what waits is refused, and the exit code is 0."""

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


class Stopping(uvicorn.Server):
    """A server whose first signal lets it finish (or drain first), and whose second does not."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self.own = server
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
        if self.own.drain and self.loop is not None and not (self.own.draining or self.should_exit):
            self.own.draining = True
            self.loop.call_soon_threadsafe(self.loop.call_later, self.own.drain, self._drained)
            return
        self.force_exit = self.should_exit or self.own.draining
        self.should_exit = True
        if self.loop is not None:  # what waits is refused at once, not at the next tick
            self.loop.call_soon_threadsafe(self.own.worker.close)

    def _drained(self) -> None:
        """Take nothing more; what waits is still computed."""
        self.own.worker.close(finish=True)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.own.worker.close(self.finishes)
        await super().shutdown(sockets)

    @property
    def finishes(self) -> bool:
        """Whether what waits is to be computed before the end."""
        return self.own.draining and not self.force_exit


def hosts_for(host: str, keys: bool = True) -> frozenset[str]:
    """Names a server answers to: this machine's; any name where others may reach it and need a key.

    Without a key it does not answer to a name that somebody else may have pointed at this machine (DNS
    rebinding): only to its own name and to addresses, which pages elsewhere cannot take.
    """
    if is_loopback(host):
        return frozenset({*LOOPBACK, host})
    return frozenset({"*"} if keys else {*LOOPBACK, host.lower(), socket.gethostname().lower(), ADDRESSES})


def serve(server: Server, listener: socket.socket) -> None:
    """Serve until a signal says to stop."""
    running = uvicorn_server(server)
    server.worker.start()
    try:
        running.run(sockets=[listener])
    finally:
        server.worker.close(running.finishes)
        server.worker.join(0 if running.force_exit else None)
        if server.trainings is not None:
            server.trainings.close()


@contextlib.contextmanager
def running(
    models: Models, rules: Rules | None = None, trainings: Trainings | None = None, **limits: Any
) -> Iterator[tuple[str, Server]]:
    """A server in the background, at a free port of this machine; its address, and what it is made of.

    trainings: what may be trained, closed in the end; limits: those of
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


def uvicorn_server(server: Server) -> Stopping:
    """The HTTP server, not yet running."""
    return Stopping(http_config(application(server)), server)


def http_config(app: ASGIApp, lifespan: Literal["on", "off"] = "off") -> uvicorn.Config:
    """How every server of ours speaks HTTP."""
    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # prompts are nobody's business
        server_header=False,
        http=protocol(HEADERS),
        timeout_keep_alive=15,
        ws="none",
        lifespan=lifespan,
    )
