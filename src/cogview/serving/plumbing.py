"""What all endpoints use: bodies read, answers given up when nobody waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from cogview.serving.api_errors import ApiError
from cogview.serving.forms import in_time
from cogview.serving.schema import refusal

M = TypeVar("M", bound=BaseModel)


async def read_json(request: Request, kind: type[M]) -> M:
    """The body, which has to be JSON and of this kind."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, "send JSON, with Content-Type: application/json", code="not_json")
    async with in_time():
        body = await request.body()
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error, kind) from None


async def unless_gone(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer; cancelled without a reply as soon as the client disconnects."""
    working, watching = asyncio.ensure_future(answer), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else Response(status_code=499)
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
