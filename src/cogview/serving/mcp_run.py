"""Serving the MCP tools over stdin and stdout, or over HTTP with the access checks of the other APIs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from mcp.server.transport_security import TransportSecuritySettings

from cogview.serving.guard import RequestGuard, Rules
from cogview.serving.mcp_tools import Tools, mcp_server
from cogview.serving.run import GracefulServer, http_config

PATH = "/mcp"


def serve_stdio(tools: Tools) -> None:
    """Serve until stdin ends."""
    tools.server.worker.start()
    try:
        mcp_server(tools).run("stdio")
    finally:
        tools.server.worker.close()


def serve_http(tools: Tools, listener: socket.socket) -> None:
    """Serve until a signal stops the server."""
    running = _http(tools)
    tools.server.worker.start()
    try:
        running.run(sockets=[listener])
    finally:
        tools.server.worker.close()
        tools.server.worker.join(0 if running.force_exit else None)


@contextlib.contextmanager
def running(tools: Tools, listener: socket.socket) -> Iterator[str]:
    """Run a server in the background; yields its URL."""
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


def _http(tools: Tools) -> GracefulServer:
    """The HTTP server, without sessions; RequestGuard checks hosts, keys and origins."""
    rules = tools.server.rules
    app = mcp_server(tools).streamable_http_app(
        streamable_http_path=PATH,
        stateless_http=True,
        max_request_body_size=rules.max_upload,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    mcp_rules = Rules(rules.hosts, rules.keys, rules.max_upload, frozenset({PATH}))
    guarded = RequestGuard(app, mcp_rules, tools.server.metrics)
    return GracefulServer(http_config(guarded, lifespan="on"), tools.server)
