"""The outermost ASGI middleware: access checks, body limits and security headers.

Checks, in this order: the Host header must name this server (against DNS rebinding), the API key must be
valid if keys are required, a POST must not come from a page of another site, and the body must not exceed its
limit, whatever its headers say.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from cogview.serving.api_errors import INVALID_REQUEST_ERROR, ApiError
from cogview.serving.metrics import Metrics
from cogview.serving.quotas import CALLER, Caller, Key, Quotas, find_key
from cogview.web.security import security_headers, with_headers
from cogview.web.sockets import answers_to, same_origin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 256 << 10
PUBLIC_PATHS = ("/healthz", "/readyz", "/studio/", "/v1/pictures/")  # no key needed; nor for the page at /
IMAGE_JSON_PATHS = frozenset(  # JSON bodies that contain images as base64
    ["/mcp", *(f"/sdapi/v1/{name}" for name in ("img2img", "extra-single-image", "png-info", "interrogate"))]
)
HEADERS = security_headers("'self' blob: data:", "'none'", "no-referrer")


@dataclass(frozen=True)
class Rules:
    """Which requests a server accepts.

    hosts: accepted host names (:func:`cogview.web.sockets.answers_to`); keys: API keys, one of which is
    required (if empty, none is), each with its quotas; max_upload: maximum bytes of a form; paths: the
    server's paths, which the request counter distinguishes.
    """

    hosts: frozenset[str] = frozenset({"*"})
    keys: Sequence[Key] = ()
    max_upload: int = 16 << 20
    paths: frozenset[str] = field(default_factory=frozenset)


class RequestGuard:
    """ASGI middleware that applies :class:`Rules` and counts requests."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self.app, self.rules, self.metrics, self.quotas = app, rules, metrics, Quotas()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, status = Headers(scope=scope), [500]

        async def recording_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        send_with_headers = with_headers(recording_status, HEADERS)

        try:
            limit = self._admit(scope, headers)
            await self.app(scope, _limited(receive, limit), send_with_headers)
        except ApiError as error:
            response = JSONResponse(error.body, error.status, {**error.headers, "Connection": "close"})
            await response(scope, receive, send_with_headers)
        finally:
            path = scope["path"] if scope["path"] in self.rules.paths else "other"
            self.metrics.add("cogview_requests_total", path=path, status=str(status[0]))

    def _admit(self, scope: Scope, headers: Headers) -> int:
        """The maximum length of the body, in bytes; raises ApiError if the request is refused."""
        if not answers_to(self.rules.hosts, headers.get("host", "")):
            raise ApiError(421, "this server does not answer to that host name", code="wrong_host")
        path = scope["path"]
        key_needed = self.rules.keys and path != "/" and not path.startswith(PUBLIC_PATHS)
        key = find_key(self.rules.keys, _key(headers.get("authorization", ""), path)) if key_needed else None
        CALLER.set(None if key is None else Caller(key, self.quotas))
        if key_needed and key is None:
            message = "a valid API key is needed: Authorization: Bearer KEY"
            raise ApiError(401, message, kind="authentication_error", code="invalid_api_key")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _same_site(headers):
            message = "requests from pages of other sites are refused"
            raise ApiError(403, message, kind=INVALID_REQUEST_ERROR, code="cross_site")
        form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self.rules.max_upload if form or path in IMAGE_JSON_PATHS else MAX_JSON
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or len(length) > 19 or int(length) > limit:
            raise _too_long(limit)
        return limit


def _key(authorization: str, path: str) -> str:
    """The key of a request: a bearer token or, for A1111's clients, which send no other, the password."""
    kind, _, key = authorization.partition(" ")
    if kind.lower() == "bearer":
        return key.strip()
    if kind.lower() != "basic" or not path.startswith("/sdapi/"):
        return ""
    try:
        return base64.b64decode(key, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _same_site(headers: Headers) -> bool:
    """Whether a request comes from no other site's page, by the headers that browsers send.

    Other clients send neither header and are accepted.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or same_origin(origin, (headers.get("host", ""),))


def _too_long(limit: int) -> ApiError:
    return ApiError(413, f"the request is too long; at most {limit:,} bytes are read", code="too_large")


def _limited(receive: Receive, limit: int) -> Receive:
    """Wraps ``receive``; raises ApiError beyond the limit, for bodies without a Content-Length header."""
    received = [0]

    async def counting_receive() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            received[0] += len(message.get("body", b""))
            if received[0] > limit:
                raise _too_long(limit)
        return message

    return counting_receive
