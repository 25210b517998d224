"""Security headers of every response, and a check of the Host header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cogview.web.sockets import answers_to

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SHARED = {
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def security_headers(images: str, forms: str, referrer: str) -> dict[str, str]:
    """Headers that keep a page from loading anything from other sites.

    images, forms: allowed sources of images and targets of forms, as in a Content-Security-Policy; referrer:
    the Referrer-Policy.
    """
    policy = (
        f"default-src 'none'; img-src {images}; style-src 'self'; script-src 'self'; connect-src 'self'; "
        f"form-action {forms}; base-uri 'none'; frame-ancestors 'none'"
    )
    return {"Content-Security-Policy": policy, "Referrer-Policy": referrer, **SHARED}


def with_headers(send: Send, headers: Mapping[str, str]) -> Send:
    """Wraps ``send`` to add ``headers`` to a response, except those that it already has."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            lines = ((name.lower().encode(), value.encode()) for name, value in headers.items())
            message["headers"] = [*message["headers"], *(line for line in lines if line[0] not in present)]
        await send(message)

    return send_with_headers


class SecurityMiddleware:
    """ASGI middleware: adds ``headers``, and answers 400 to requests for a host that is not in ``hosts``."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], headers: Mapping[str, str]) -> None:
        self.app, self.hosts, self.headers = app, hosts, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.datastructures import Headers
        from starlette.responses import Response

        known = scope["type"] != "http" or answers_to(self.hosts, Headers(scope=scope).get("host", ""))
        app = self.app if known else Response("another host", 400)
        await app(scope, receive, with_headers(send, self.headers))
