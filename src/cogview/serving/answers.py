"""How pictures are sent: all in one answer, or each as it comes, as server-sent events."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from cogview.pipelines.output import GeneratedImage
from cogview.serving.drawing import Partial
from cogview.serving.errors import ApiError
from cogview.serving.pictures import base64_text, encoded, finished
from cogview.serving.schema import Output
from cogview.serving.worker import Ticket

if TYPE_CHECKING:
    from cogview.serving.app import Server


@dataclass(frozen=True)
class Answer:
    """How a request's pictures are sent. base: the address of this server, with a slash at its end."""

    server: Server
    base: str
    asked: Output
    model: str
    usage: Mapping[str, int]

    async def whole(self, ticket: Ticket) -> Response:
        """All pictures in one answer, in order."""
        async with contextlib.aclosing(ticket.events()) as coming:
            made = {event.number: await self._entry(event.picture) async for event in coming}
        common = {"created": int(time.time()), "model": self.model, "output_format": self.asked.output_format}
        usage = {"usage": self.usage} if self.usage else {}
        return JSONResponse(common | {"data": [made[number] for number in sorted(made)]} | usage)

    async def events(self, ticket: Ticket) -> AsyncGenerator[dict[str, Any], None]:
        """Pictures on their way and finished ones, as they come."""
        kind, quality = self.asked.output_format, self.asked.output_compression
        async with contextlib.aclosing(ticket.events()) as coming:
            async for event in coming:
                common = {"created_at": int(time.time()), "index": event.number, "output_format": kind}
                if isinstance(event, Partial):
                    data = await run_in_threadpool(encoded, event.image, kind, quality)
                    told = {"partial_image_index": event.step, "b64_json": base64_text(data)}
                    yield {"type": "image_generation.partial_image", **common, **told}
                else:
                    entry = await self._entry(event.picture)
                    yield {"type": "image_generation.completed", **common, **entry}
        yield {"type": "image_generation.done", "usage": self.usage}

    async def _entry(self, picture: GeneratedImage) -> dict[str, Any]:
        """One finished picture."""
        kind = self.asked.output_format
        data = await run_in_threadpool(finished, picture, kind, self.asked.output_compression)
        told = {
            "seed": picture.seed,
            "picture": picture.index,
            "size": "{}x{}".format(*picture.image.size),
            "revised_prompt": picture.caption,
        }
        if self.asked.response_format == "url":
            return {"url": f"{self.base}v1/pictures/{self.server.shelf.put(data, kind)}", **told}
        return {"b64_json": base64_text(data), **told}


def event_stream(events: AsyncGenerator[dict[str, Any], None]) -> StreamingResponse:
    """Server-sent events, each named by its type; an error is the last of them."""

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(events) as coming:
            try:
                async for event in coming:
                    yield _event(event["type"], event)
            except ApiError as error:
                yield _event("error", {"type": "error", **error.body})

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
