"""Running the tools for agents: over stdin and stdout, or over HTTP behind the guard of the other APIs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from mcp.server.transport_security import TransportSecuritySettings

from cogview.serving.guard import RequestGuard, Rules
from cogview.serving.mcp_tools import Tools, mcp_server
from cogview.serving.run import Stopping, http_config

PATH = "/mcp"


def serve_stdio(tools: Tools) -> None:
    """Serve until stdin ends."""
    tools.server.worker.start()
    try:
        mcp_server(tools).run("stdio")
    finally:
        tools.server.worker.close()


def serve_http(tools: Tools, listener: socket.socket) -> None:
    """Serve until a signal says to stop."""
    running = _http(tools)
    tools.server.worker.start()
    try:
        running.run(sockets=[listener])
    finally:
        tools.server.worker.close()
        tools.server.worker.join(0 if running.force_exit else None)


@contextlib.contextmanager
def running(tools: Tools, listener: socket.socket) -> Iterator[str]:
    """A server in the background; its address."""
    http = _http(tools)
    thread = threading.Thread(target=http.run, kwargs={"sockets": [listener]}, name="cogview-mcp")
    tools.server.worker.start()
    thread.start()
    try:
        yield "http://{}:{}{}".format(*listener.getsockname()[:2], PATH)
    finally:
        http.should_exit = True
        thread.join()
        tools.server.worker.join()


def _http(tools: Tools) -> Stopping:
    """The HTTP server. Hosts, keys and origins are checked by the guard; sessions are not kept."""
    rules = tools.server.rules
    app = mcp_server(tools).streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        max_request_body_size=rules.max_upload,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    own = Rules(rules.hosts, rules.keys, rules.max_upload, frozenset({PATH}))
    guarded = RequestGuard(app, own, tools.server.metrics)
    return Stopping(http_config(guarded, lifespan="on"), tools.server)
