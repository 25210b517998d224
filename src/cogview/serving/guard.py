"""The outermost layer: which requests are looked at at all, and what every answer carries.

In this order: the host that is asked for must be ours (a page elsewhere cannot reach a server on this machine
by a name of its own), a key must be right where keys are asked for, a post must not come from another site's
page, and a body must not be longer than it may be, whatever its headers say.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from cogview.serving.api_errors import BAD, ApiError
from cogview.serving.metrics import Metrics
from cogview.serving.quotas import CALLER, Caller, Key, Quotas, matching
from cogview.web.security import security_headers, with_headers
from cogview.web.sockets import answers_to, same_origin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_JSON = 256 << 10
OPEN = ("/healthz", "/readyz", "/studio/", "/v1/pictures/")  # besides the page itself; needs no key
WITH_PICTURES = frozenset(  # in JSON, as base64
    ["/mcp", *(f"/sdapi/v1/{name}" for name in ("img2img", "extra-single-image", "png-info", "interrogate"))]
)
HEADERS = security_headers("'self' blob: data:", "'none'", "no-referrer")


@dataclass(frozen=True)
class Rules:
    """What a server lets in.

    hosts: names it answers to (:func:`cogview.web.sockets.answers_to`); keys: one of them is needed (none: no
    key), and has its quotas; max_upload: bytes of a form; paths: of its own, for the counts.
    """

    hosts: frozenset[str] = frozenset({"*"})
    keys: Sequence[Key] = ()
    max_upload: int = 16 << 20
    paths: frozenset[str] = field(default_factory=frozenset)


class RequestGuard:
    """Wraps an application."""

    def __init__(self, app: ASGIApp, rules: Rules, metrics: Metrics) -> None:
        self.app, self.rules, self.metrics, self.quotas = app, rules, metrics, Quotas()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers, status = Headers(scope=scope), [500]

        async def noting_status(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        sending = with_headers(noting_status, HEADERS)

        try:
            limit = self._admit(scope, headers)
            await self.app(scope, _limited(receive, limit), sending)
        except ApiError as error:
            answer = JSONResponse(error.body, error.status, {**error.headers, "Connection": "close"})
            await answer(scope, receive, sending)
        finally:
            path = scope["path"] if scope["path"] in self.rules.paths else "other"
            self.metrics.add("cogview_requests_total", path=path, status=str(status[0]))

    def _admit(self, scope: Scope, headers: Headers) -> int:
        """How long the body may be; ApiError for what is not let in."""
        if not answers_to(self.rules.hosts, headers.get("host", "")):
            raise ApiError(421, "this server does not answer to that host name", code="wrong_host")
        path = scope["path"]
        closed = self.rules.keys and path != "/" and not path.startswith(OPEN)
        key = matching(self.rules.keys, _key(headers.get("authorization", ""), path)) if closed else None
        CALLER.set(None if key is None else Caller(key, self.quotas))
        if closed and key is None:
            message = "a right API key is needed: Authorization: Bearer KEY"
            raise ApiError(401, message, kind="authentication_error", code="invalid_api_key")
        if scope["method"] not in ("GET", "HEAD", "OPTIONS") and not _same_site(headers):
            raise ApiError(403, "posts from other sites' pages are refused", kind=BAD, code="cross_site")
        form = headers.get("content-type", "").lower().startswith("multipart/form-data")
        limit = self.rules.max_upload if form or path in WITH_PICTURES else MAX_JSON
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()) or len(length) > 19 or int(length) > limit:
            raise _too_long(limit)
        return limit


def _key(authorization: str, path: str) -> str:
    """The key of a request: a bearer's, or for A1111's clients, which have no other way, a password."""
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
    """Not sent by a page of another site, as browsers tell; other clients say nothing."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or same_origin(origin, (headers.get("host", ""),))


def _too_long(limit: int) -> ApiError:
    return ApiError(413, f"the request is too long; at most {limit:,} bytes are read", code="too_large")


def _limited(receive: Receive, limit: int) -> Receive:
    """Counts what is read; ApiError beyond the limit, for bodies that do not tell their length."""
    read = [0]

    async def counted() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            read[0] += len(message.get("body", b""))
            if read[0] > limit:
                raise _too_long(limit)
        return message

    return counted
