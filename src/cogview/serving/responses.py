"""Image responses: one JSON body with all images, or server-sent events with each image as it is ready."""

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
from cogview.serving.generation_job import PartialImage
from cogview.serving.openai.postprocess import Postprocess
from cogview.serving.pictures import base64_text, image_bytes
from cogview.serving.schema import Output
from cogview.serving.worker import FinishedImage, Ticket

if TYPE_CHECKING:
    from cogview.serving.app import Server

IGNORED = "X-Cogview-Ignored"


@dataclass(frozen=True)
class ImageResponse:
    """Builds the response to a request for images.

    base_url: the address of this server, ending in a slash; kind: prefix of event types, ``image_generation``
    or ``image_edit``; usage: token counts of the request; image_usage: token counts of each image.
    """

    server: Server
    base_url: str
    request: Output
    model: str
    postprocess: Postprocess = field(default_factory=Postprocess)
    usage: Mapping[str, Any] = field(default_factory=dict)
    image_usage: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "image_generation"

    @property
    def headers(self) -> dict[str, str]:
        """A header with the names of the request's ignored fields."""
        return {IGNORED: ", ".join(self.postprocess.ignored)} if self.postprocess.ignored else {}

    async def complete(self, ticket: Ticket) -> Response:
        """All images in one JSON body, in order."""
        entries: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        async with contextlib.aclosing(ticket.events()) as events:
            async for event in events:
                if isinstance(event, FinishedImage):
                    entries[event.number] = await self._entry(event.generated)
        images = [entries[number] for number in sorted(entries)]
        common = {"created": int(time.time()), "model": self.model, **(images[0][1] if images else {})}
        ignored = list(self.postprocess.ignored)
        if self.postprocess.transparent and any(facts["background"] == "opaque" for _, facts in images):
            ignored.append("background")  # no uniform background to remove
        body = {"data": [entry for entry, _ in images], "ignored": ignored}
        usage = {"usage": self.usage} if self.usage else {}
        headers = {IGNORED: ", ".join(ignored)} if ignored else {}
        return JSONResponse(common | self._common_fields | body | usage, headers=headers)

    async def events(self, ticket: Ticket) -> AsyncGenerator[dict[str, Any], None]:
        """Yield partial and finished images as they are ready."""
        async with contextlib.aclosing(ticket.events()) as events:
            async for event in events:
                common = {"created_at": int(time.time()), "index": event.number}
                if isinstance(event, PartialImage):
                    fields, facts = await self._partial(event)
                    yield {"type": f"{self.kind}.partial_image", **common, **facts, **fields}
                else:
                    entry, facts = await self._entry(event.generated)
                    fields = {"usage": self.image_usage, **self._common_fields}
                    yield {"type": f"{self.kind}.completed", **common, **facts, **entry, **fields}

    @property
    def _common_fields(self) -> dict[str, Any]:
        """Fields of every response: words of the prompt that the model does not know, safety identifier."""
        words = {"words": self.postprocess.words} if self.postprocess.words else {}
        identifier = self.postprocess.identifier
        return words | ({"safety_identifier": identifier} if identifier else {})

    async def _partial(self, event: PartialImage) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of a partial image, and its description."""
        image = event.image if self.postprocess.size is None else fitted(event.image, self.postprocess.size)
        data = await run_in_threadpool(
            image_bytes, image, self.request.output_format, self.request.output_compression
        )
        fields = {"partial_image_index": event.step, "b64_json": base64_text(data)}
        return fields, self._description(image)

    def _description(self, image: Image.Image) -> dict[str, Any]:
        """OpenAI's response fields that describe an image."""
        return {
            "background": "transparent"
            if image.mode == "RGBA" and self.postprocess.transparent
            else "opaque",
            "output_format": self.request.output_format,
            "quality": self.postprocess.quality,
            "size": "{}x{}".format(*image.size),
        }

    async def _entry(self, generated: GeneratedImage) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of a finished image, and its description."""
        kind = self.request.output_format
        final = await run_in_threadpool(self.postprocess, generated)
        quality = self.request.output_compression
        data = await run_in_threadpool(self.server.labelling.file, final, kind, quality)
        facts = self._description(final.image)
        fields = {
            "seed": final.seed,
            "picture": final.index,
            "size": facts["size"],
            "revised_prompt": final.caption,
        }
        if self.request.response_format == "url":
            name = await run_in_threadpool(self.server.image_store.put, data, kind)
            return {"url": f"{self.base_url}v1/pictures/{name}", **fields}, facts
        return {"b64_json": base64_text(data), **fields}, facts


def event_stream(
    events: AsyncGenerator[dict[str, Any], None], extra_headers: Mapping[str, str] | None = None
) -> StreamingResponse:
    """Server-sent events, each named by its type; an error ends the stream."""

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(events):
            try:
                async for event in events:
                    yield _event(event["type"], event)
            except ApiError as error:
                yield _event("error", {"type": "error", **error.body})

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(extra_headers or {})}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
