"""Connections that wait, and too many of them: nobody shuts others out."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from cogview.web import connections
from tests.serving.conftest import GENERATIONS, Site, until

Serve = Callable[..., Site]
HALF = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def send(site: Site, data: bytes) -> socket.socket:
    opened = socket.create_connection(("127.0.0.1", site.port), timeout=30)
    opened.sendall(data)
    return opened


def everything(opened: socket.socket) -> bytes:
    parts = []
    while part := opened.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_six_hundred_half_sent_requests_shut_nobody_out(serve: Serve) -> None:
    site = serve()
    with ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(send(site, HALF))
        assert site.ask("/healthz").status == 200
        assert site.draw(n=1).status == 200


def test_a_head_that_does_not_come_is_not_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    site = serve()
    with send(site, HALF) as half, send(site, b"") as silent:
        assert everything(half).startswith(b"HTTP/1.1 408 ")
        assert everything(silent) == b""
    with send(site, HALF + b"\r\n") as whole:  # a second request on the same connection, half sent
        answer = whole.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 ")
        whole.sendall(HALF)
        assert b"HTTP/1.1 408 " in everything(whole)


def test_too_many_connections_of_an_address_are_told_when_to_come_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_PER_ADDRESS", 3)
    site = serve()
    with ExitStack() as stack:
        slow = f"POST {GENERATIONS} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        for _ in range(3):
            stack.enter_context(send(site, slow.encode() + b"Content-Length: 9\r\n\r\n{"))
        refused = site.ask("/healthz")
        assert refused.status == 503 and int(refused.headers["retry-after"]) > 0
        assert refused.headers["x-content-type-options"] == "nosniff"
    until(lambda: site.ask("/healthz").status == 200)


def test_what_is_no_http_is_refused_with_the_headers_of_all_answers(site: Site) -> None:
    for data in (b"\x00\x01\x02\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\nHost : x\r\n\r\n"):
        with send(site, data) as opened:
            answer = everything(opened)
        assert answer.startswith(b"HTTP/1.1 4") and b"nosniff" in answer.lower()
