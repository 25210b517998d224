"""The application: OpenAI's Images API, and what it lacks, over the models of this server.

``POST /v1/images/generations`` streams pictures on their way as server-sent events: a model that draws row by
row shows them at the price of decoding.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from cogview import __version__
from cogview.errors import CogViewError
from cogview.serving.errors import OURS, ApiError

try:
    from fastapi import FastAPI, Request
    from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise CogViewError(
        f"the server needs {error.name}; install it with: pip install 'cogview[serve]'"
    ) from None

from cogview.serving.drawing import Drawing, Made, Partial
from cogview.serving.guard import Guard, Rules
from cogview.serving.metrics import Metrics
from cogview.serving.pictures import Shelf, base64_text, encoded, finished
from cogview.serving.schema import Generation, refusal
from cogview.serving.served import Models
from cogview.serving.worker import Ticket, Worker

if TYPE_CHECKING:
    from starlette.types import ASGIApp

STATIC = Path(__file__).parent / "static"
FILES = {
    "studio.css": "text/css; charset=utf-8",
    "studio.js": "text/javascript; charset=utf-8",
    "studio.svg": "image/svg+xml",
}
M = TypeVar("M", bound=BaseModel)


@dataclass
class Server:
    """All that the endpoints share."""

    models: Models
    worker: Worker
    metrics: Metrics
    rules: Rules = field(default_factory=Rules)
    shelf: Shelf = field(default_factory=Shelf)


def application(server: Server) -> ASGIApp:
    """The ASGI application; the worker is started and closed by whoever runs it."""
    app = FastAPI(title="cogview", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    handlers: dict[Any, Any] = {
        ApiError: _refused,
        HTTPException: _missing,
        ClientDisconnect: _gone,
        Exception: _failed,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    _add_pages(app, server)
    _add_generations(app, server)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    rules = Rules(server.rules.hosts, server.rules.keys, server.rules.max_upload, paths)
    return Guard(app, rules, server.metrics)


# ------------------------------------------------------------------------------------------ errors


def _refused(request: Request, error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, error.headers)


def _missing(request: Request, error: HTTPException) -> JSONResponse:
    told = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for this path"}
    message = told.get(error.status_code, str(error.detail))
    return _refused(request, ApiError(error.status_code, message, code="not_found"))


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it


def _failed(request: Request, error: Exception) -> JSONResponse:
    return _refused(request, ApiError(500, "the server failed; its log says how", kind=OURS, code="internal"))


# ------------------------------------------------------------------------------------------ pages


def _add_pages(app: FastAPI, server: Server) -> None:
    """The studio, what is served, how it goes."""

    @app.get("/", include_in_schema=False)
    async def studio() -> FileResponse:
        return FileResponse(STATIC / "studio.html", media_type="text/html; charset=utf-8")

    @app.get("/studio/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        return FileResponse(STATIC / name, media_type=FILES[name], headers={"Cache-Control": "no-cache"})

    @app.get("/healthz")
    async def health() -> JSONResponse:
        if server.worker.closed:
            raise ApiError(503, "the server is stopping", kind=OURS, code="stopping", retry_after=30)
        return JSONResponse({"status": "ok", "version": __version__, "waiting": server.worker.waiting})

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [one.describe() for one in server.models.by_name.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return server.models.find(name).describe()

    @app.get("/v1/pictures/{name}")
    async def picture(name: str) -> Response:
        found = server.shelf.get(name)
        if found is None:
            raise ApiError(404, "there is no such picture, or not any more", code="not_found")
        return Response(found[0], media_type=found[1])


# ------------------------------------------------------------------------------------------ drawing


def _add_generations(app: FastAPI, server: Server) -> None:
    @app.post("/v1/images/generations", response_model=None, openapi_extra=_takes(Generation))
    async def generations(request: Request) -> Response:
        asked = await read_json(request, Generation)
        job = Drawing.of(asked, server.models.find(asked.model))
        ticket = server.worker.submit(job)
        answer = _Answer(server, request, asked, job)
        if asked.stream:
            return event_stream(answer.events(ticket))
        return await unless_gone(request, answer.whole(ticket))


@dataclass(frozen=True)
class _Answer:
    """How a request's pictures are sent."""

    server: Server
    request: Request
    asked: Generation
    job: Drawing

    async def whole(self, ticket: Ticket) -> Response:
        """All pictures in one answer."""
        made = {event.number: await self._entry(event) async for event in ticket.events()}
        return JSONResponse(
            {
                "created": int(time.time()),
                "data": [made[number] for number in sorted(made)],
                "model": self.job.served.name,
                "output_format": self.asked.output_format,
                "usage": self._usage(),
            }
        )

    async def events(self, ticket: Ticket) -> AsyncIterator[dict[str, Any]]:
        """Pictures on their way and finished ones, as they come."""
        async for event in ticket.events():
            if isinstance(event, Partial):
                data = await run_in_threadpool(
                    encoded, event.image, self.asked.output_format, self.asked.output_compression
                )
                kind, more = (
                    "partial_image",
                    {"partial_image_index": event.step, "b64_json": base64_text(data)},
                )
            else:
                kind, more = "completed", await self._entry(event)
            common = {
                "type": f"image_generation.{kind}",
                "created_at": int(time.time()),
                "index": event.number,
            }
            yield common | more | {"output_format": self.asked.output_format}
        yield {"type": "image_generation.done", "usage": self._usage()}

    async def _entry(self, event: Made) -> dict[str, Any]:
        """One finished picture."""
        kind, picture = self.asked.output_format, event.picture
        data = await run_in_threadpool(finished, picture, kind, self.asked.output_compression)
        told = {
            "seed": picture.seed,
            "picture": picture.index,
            "size": "{}x{}".format(*picture.image.size),
            "revised_prompt": picture.caption,
        }
        if self.asked.response_format == "url":
            return {"url": f"{self.request.base_url}v1/pictures/{self.server.shelf.put(data, kind)}", **told}
        return {"b64_json": base64_text(data), **told}

    def _usage(self) -> dict[str, int]:
        drawn = self.job.size * len(self.job.served.cogview.form.code_positions(0))
        tokens = self.job.tokens
        return {"input_tokens": tokens, "output_tokens": drawn, "total_tokens": tokens + drawn}


# ------------------------------------------------------------------------------------------ plumbing


async def read_json(request: Request, kind: type[M]) -> M:
    """The body, which has to be JSON and of this kind."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ApiError(415, "send JSON, with Content-Type: application/json", code="not_json")
    body = await request.body()
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error, kind) from None


def _takes(kind: type[BaseModel], media: str = "application/json") -> dict[str, Any]:
    """What /openapi.json says of a body."""
    return {"requestBody": {"required": True, "content": {media: {"schema": kind.model_json_schema()}}}}


def event_stream(events: AsyncIterator[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events, each named by its type; an error is the last of them."""

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(events) as coming:  # type: ignore[type-var]
            try:
                async for event in coming:
                    yield _event(event["type"], event)
            except ApiError as error:
                yield _event("error", {"type": "error", **error.body})

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def unless_gone(request: Request, answer: Coroutine[Any, Any, Response]) -> Response:
    """The answer; given up as soon as the client is gone, which nobody is told then."""
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
