"""Helpers of all endpoints: JSON bodies, ticket names, cancellation when the client disconnects."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from cogview.serving.api_errors import ApiError
from cogview.serving.forms import body_timeout
from cogview.serving.schema import validation_error

M = TypeVar("M", bound=BaseModel)
TICKET = "X-Cogview-Ticket"
_NAME = re.compile(r"[A-Za-z0-9-]{8,64}")


async def read_json(request: Request, kind: type[M]) -> M:
    """The JSON body, validated; raises ApiError if it is not JSON or not valid."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, "send JSON, with Content-Type: application/json", code="not_json")
    async with body_timeout():
        body = await request.body()
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise validation_error(error, kind) from None


def ticket_name(request: Request) -> str | None:
    """The client's name for its request, used to query the queue; raises ApiError for an invalid name."""
    name = request.headers.get(TICKET)
    if name is not None and not _NAME.fullmatch(name):
        raise ApiError(400, f"{TICKET}: give 8 to 64 letters, digits and dashes", code="invalid_value")
    return name


async def unless_disconnected(request: Request, response: Coroutine[Any, Any, Response]) -> Response:
    """The response; cancelled as soon as the client disconnects."""
    responding, watching = asyncio.ensure_future(response), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({responding, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await responding if responding.done() else Response(status_code=499)
    finally:
        for task in (responding, watching):
            task.cancel()
        await asyncio.gather(responding, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
