"""How images are sent: all in one answer, or each as it comes, as server-sent events."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from cogview.pipelines.base import GeneratedImage
from cogview.pipelines.resizing import fitted
from cogview.serving.api_errors import ApiError
from cogview.serving.drawing import Partial
from cogview.serving.openai.finish import Finish
from cogview.serving.pictures import base64_text, encoded
from cogview.serving.schema import Output
from cogview.serving.worker import Made, Ticket

if TYPE_CHECKING:
    from cogview.serving.app import Server

IGNORED = "X-Cogview-Ignored"


@dataclass(frozen=True)
class Answer:
    """How a request's images are sent.

    base: the address of this server, with a slash at its end; kind: of its events, ``image_generation`` or
    ``image_edit``; usage: of the request, and of each of its images.
    """

    server: Server
    base: str
    asked: Output
    model: str
    finish: Finish = field(default_factory=Finish)
    usage: Mapping[str, Any] = field(default_factory=dict)
    picture_usage: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "image_generation"

    @property
    def headers(self) -> dict[str, str]:
        """Names of what the request gave and nothing here uses."""
        return {IGNORED: ", ".join(self.finish.ignored)} if self.finish.ignored else {}

    async def whole(self, ticket: Ticket) -> Response:
        """All images in one answer, in order."""
        made: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        async with contextlib.aclosing(ticket.events()) as coming:
            async for event in coming:
                if isinstance(event, Made):
                    made[event.number] = await self._entry(event.picture)
        pictures = [made[number] for number in sorted(made)]
        common = {"created": int(time.time()), "model": self.model, **(pictures[0][1] if pictures else {})}
        ignored = list(self.finish.ignored)
        if self.finish.transparent and any(facts["background"] == "opaque" for _, facts in pictures):
            ignored.append("background")  # no even ground to remove
        told = {"data": [entry for entry, _ in pictures], "ignored": ignored}
        usage = {"usage": self.usage} if self.usage else {}
        headers = {IGNORED: ", ".join(ignored)} if ignored else {}
        return JSONResponse(common | self._repeated | told | usage, headers=headers)

    async def events(self, ticket: Ticket) -> AsyncGenerator[dict[str, Any], None]:
        """Pictures on their way and finished ones, as they come."""
        async with contextlib.aclosing(ticket.events()) as coming:
            async for event in coming:
                common = {"created_at": int(time.time()), "index": event.number}
                if isinstance(event, Partial):
                    told, facts = await self._partial(event)
                    yield {"type": f"{self.kind}.partial_image", **common, **facts, **told}
                else:
                    entry, facts = await self._entry(event.picture)
                    told = {"usage": self.picture_usage, **self._repeated}
                    yield {"type": f"{self.kind}.completed", **common, **facts, **entry, **told}

    @property
    def _repeated(self) -> dict[str, Any]:
        """What every answer of the request repeats: who asked, and words that the model does not know."""
        found = {"words": self.finish.words} if self.finish.words else {}
        return found | ({"safety_identifier": self.finish.identifier} if self.finish.identifier else {})

    async def _partial(self, event: Partial) -> tuple[dict[str, Any], dict[str, Any]]:
        """An image in progress, and its description."""
        image = event.image if self.finish.size is None else fitted(event.image, self.finish.size)
        data = await run_in_threadpool(
            encoded, image, self.asked.output_format, self.asked.output_compression
        )
        told = {"partial_image_index": event.step, "b64_json": base64_text(data)}
        return told, self._facts(image)

    def _facts(self, image: Image.Image) -> dict[str, Any]:
        """What OpenAI's answers tell of an image."""
        return {
            "background": "transparent" if image.mode == "RGBA" and self.finish.transparent else "opaque",
            "output_format": self.asked.output_format,
            "quality": self.finish.quality,
            "size": "{}x{}".format(*image.size),
        }

    async def _entry(self, picture: GeneratedImage) -> tuple[dict[str, Any], dict[str, Any]]:
        """One finished image, and its description."""
        kind = self.asked.output_format
        done = await run_in_threadpool(self.finish, picture)
        quality = self.asked.output_compression
        data = await run_in_threadpool(self.server.labelling.file, done, kind, quality)
        facts = self._facts(done.image)
        told = {
            "seed": done.seed,
            "picture": done.index,
            "size": facts["size"],
            "revised_prompt": done.caption,
        }
        if self.asked.response_format == "url":
            name = await run_in_threadpool(self.server.shelf.put, data, kind)
            return {"url": f"{self.base}v1/pictures/{name}", **told}, facts
        return {"b64_json": base64_text(data), **told}, facts


def event_stream(
    events: AsyncGenerator[dict[str, Any], None], more: Mapping[str, str] | None = None
) -> StreamingResponse:
    """Server-sent events, each named by its type; an error is the last of them."""

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(events) as coming:
            try:
                async for event in coming:
                    yield _event(event["type"], event)
            except ApiError as error:
                yield _event("error", {"type": "error", **error.body})

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(more or {})}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
