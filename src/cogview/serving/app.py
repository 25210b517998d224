"""The ASGI application: OpenAI's Images API with extensions, for the models of this server.

``POST /v1/images/generations`` streams partial images as server-sent events: the model generates row by row,
so a partial image costs one pass of the image tokenizer's decoder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from PIL import Image
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cogview import __version__
from cogview.pipelines.base import Caption
from cogview.serving import tasks
from cogview.serving.a1111 import api as a1111
from cogview.serving.api_errors import SERVER_ERROR, ApiError
from cogview.serving.forms import Files, read_form
from cogview.serving.generation_job import GenerationJob
from cogview.serving.guard import RequestGuard, Rules
from cogview.serving.labelling import Labelling
from cogview.serving.metrics import Metrics
from cogview.serving.openai.postprocess import usage
from cogview.serving.pictures import ImageStore, base64_text, decode_upload
from cogview.serving.plumbing import read_json, ticket_name, unless_disconnected
from cogview.serving.responses import ImageResponse, event_stream
from cogview.serving.schema import (
    Captioning,
    CutOut,
    Edit,
    Generation,
    Output,
    Prompt,
    Scoring,
    Upscaling,
    Variation,
)
from cogview.serving.served import Models
from cogview.serving.tasks import TaskJob
from cogview.serving.tracing import TELEMETRY
from cogview.serving.training_api import add_trainings
from cogview.serving.trainings import Trainings
from cogview.serving.worker import Ticket, Worker
from cogview.web.sockets import THEME

if TYPE_CHECKING:
    from starlette.types import ASGIApp

STATIC = Path(__file__).parent / "static"
FILES = {
    THEME.name: "text/css; charset=utf-8",
    "studio.css": "text/css; charset=utf-8",
    "studio.svg": "image/svg+xml",
    **dict.fromkeys((path.name for path in STATIC.glob("*.js")), "text/javascript; charset=utf-8"),
}
MAX_EDIT_IMAGES = 16  # images of an edit, as in OpenAI's API; the first is edited
MAX_TICKETS = 64  # tickets in a request to /v1/queue
MAX_INPUT_IMAGES = 8  # images of a request for captions or scores


@dataclass
class Server:
    """State shared by the endpoints.

    drain: seconds after the signal to stop during which requests are still accepted, while ``/readyz``
    returns 503.
    """

    models: Models
    worker: Worker
    metrics: Metrics
    rules: Rules = field(default_factory=Rules)
    image_store: ImageStore = field(default_factory=ImageStore)
    labelling: Labelling = field(default_factory=Labelling)
    drain: float = 0.0
    draining: bool = False
    trainings: Trainings | None = None


def application(server: Server) -> ASGIApp:
    """The ASGI application; the caller starts and closes the worker."""
    app = FastAPI(
        title="cogview",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=TELEMETRY,
    )
    handlers: dict[Any, Any] = {
        ApiError: _api_error,
        HTTPException: _http_error,
        ClientDisconnect: _disconnected,
        Exception: _internal_error,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
    _add_pages(app, server)
    _add_generations(app, server)
    _add_image_inputs(app, server)
    _add_text_outputs(app, server)
    a1111.add_a1111(app, server)
    add_trainings(app, server)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    rules = Rules(server.rules.hosts, server.rules.keys, server.rules.max_upload, paths)
    return RequestGuard(app, rules, server.metrics)


# ------------------------------------------------------------------------------------------ errors


def _api_error(request: Request, error: ApiError) -> JSONResponse:
    if request.url.path.startswith(a1111.PREFIX):
        return a1111.error_response(error)
    return JSONResponse(error.body, error.status, error.headers)


def _http_error(request: Request, error: HTTPException) -> JSONResponse:
    messages = {
        404: f"there is nothing at {request.url.path}",
        405: f"the method {request.method} is not allowed for this path",
    }
    message = messages.get(error.status_code, str(error.detail))
    code = "not_found" if error.status_code == 404 else None
    return _api_error(request, ApiError(error.status_code, message, code=code))


def _disconnected(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # never received: the client is gone


def _internal_error(request: Request, error: Exception) -> JSONResponse:
    message = "the server failed; see its log for the cause"
    return _api_error(request, ApiError(500, message, kind=SERVER_ERROR, code="internal"))


# ------------------------------------------------------------------------------------------ pages


def _add_pages(app: FastAPI, server: Server) -> None:
    """The studio, health checks, metrics, the model list, the queue, and stored images."""

    @app.head("/", include_in_schema=False)
    @app.get("/", include_in_schema=False)
    async def studio() -> FileResponse:
        return FileResponse(STATIC / "studio.html", media_type="text/html; charset=utf-8")

    @app.get("/studio/{name}", include_in_schema=False)
    async def static(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404)
        path = THEME if name == THEME.name else STATIC / name
        return FileResponse(path, media_type=FILES[name], headers={"Cache-Control": "no-cache"})

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz")
    async def health() -> JSONResponse:
        if server.worker.closed:
            raise ApiError(503, "the server is stopping", kind=SERVER_ERROR, code="stopping", retry_after=30)
        return JSONResponse({"status": "ok", "version": __version__, "waiting": server.worker.waiting})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Whether a load balancer should send requests here."""
        if server.draining or server.worker.closed:
            raise ApiError(
                503, "the server is about to stop", kind=SERVER_ERROR, code="stopping", retry_after=30
            )
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": server.models.describe()}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return server.models.find(name).describe()

    @app.get("/v1/queue")
    async def queue(request: Request) -> dict[str, Any]:
        names = request.query_params.getlist("ticket")[:MAX_TICKETS]
        status = server.worker.status(names)
        return {"waiting": server.worker.waiting, "tickets": {k: asdict(v) for k, v in status.items()}}

    @app.get("/v1/pictures/{name}")
    async def picture(name: str) -> Response:
        stored = await run_in_threadpool(server.image_store.get, name)
        if stored is None:
            raise ApiError(404, "this image does not exist or has expired", code="not_found")
        return Response(stored[0], media_type=stored[1])


# ------------------------------------------------------------------------------------------ images and text


def _add_generations(app: FastAPI, server: Server) -> None:
    @app.post("/v1/images/generations", response_model=None, openapi_extra=_request_body(Generation))
    async def generations(request: Request) -> Response:
        body = await read_json(request, Generation)
        job = GenerationJob.of(body, server.models.with_ability(body.model, "generate"))
        base, name = str(request.base_url), job.served.name
        words = await run_in_threadpool(job.served.unknown_words, body.prompt)
        postprocess = replace(job.postprocess, words={key: value for key, value in words.items() if value})
        response = ImageResponse(server, base, body, name, postprocess, job.usage, job.image_usage)
        ticket = server.worker.submit(job, ticket_name(request))
        if body.stream:
            return event_stream(response.events(ticket), response.headers)
        return await unless_disconnected(request, response.complete(ticket))


def _add_image_inputs(app: FastAPI, server: Server) -> None:
    """Endpoints that take an image and return images."""

    def form(kind: type[BaseModel]) -> dict[str, Any]:
        return {"response_model": None, "openapi_extra": _request_body(kind, "multipart/form-data")}

    async def respond(request: Request, body: Output, job: TaskJob) -> Response:
        total = usage(job.text_tokens, job.generated_tokens, job.input_image_tokens)
        generated_each = job.generated_tokens // max(1, getattr(body, "n", 1))
        each = usage(job.text_tokens, generated_each, job.input_image_tokens)
        base, name = str(request.base_url), job.served.name
        kind = "image_edit" if isinstance(body, Edit) else "image_generation"
        response = ImageResponse(server, base, body, name, job.postprocess, total, each, kind)
        ticket = server.worker.submit(job, ticket_name(request))
        if getattr(body, "stream", False):
            return event_stream(response.events(ticket), response.headers)
        return await unless_disconnected(request, response.complete(ticket))

    @app.post("/v1/images/edits", **form(Edit))
    async def edits(request: Request) -> Response:
        body, files = await read_form(request, Edit, image=MAX_EDIT_IMAGES, mask=1, markup=1)
        served = server.models.with_ability(body.model, "edit")
        image = await run_in_threadpool(decode_upload, required_file(files, "image"), "image")
        mask = await run_in_threadpool(decode_upload, files["mask"][0], "mask") if files["mask"] else None
        ignored = ["image (all but the first)"] if len(files["image"]) > 1 else []
        ignored += ["markup"] if files["markup"] else []
        return await respond(request, body, tasks.edit(body, served, image, mask, ignored))

    @app.post("/v1/images/variations", **form(Variation))
    async def variations(request: Request) -> Response:
        body, files = await read_form(request, Variation, image=1)
        served = server.models.with_ability(body.model, "edit")
        image = await run_in_threadpool(decode_upload, required_file(files, "image"), "image")
        return await respond(request, body, tasks.vary(body, served, image))

    @app.post("/v1/images/upscales", **form(Upscaling))
    async def upscales(request: Request) -> Response:
        body, files = await read_form(request, Upscaling, image=1)
        served = server.models.with_ability(body.model, "upscale")
        await run_in_threadpool(decode_upload, required_file(files, "image"), "image")
        return await respond(request, body, tasks.upscale(body, served, required_file(files, "image")))

    @app.post("/v1/images/cutouts", **form(CutOut))
    async def cut_outs(request: Request) -> Response:
        body, files = await read_form(request, CutOut, image=1)
        data = required_file(files, "image")
        await run_in_threadpool(decode_upload, data, "image")
        job = tasks.cut_out(server.labelling, server.models.find(body.model), data)
        ticket = server.worker.submit(job, ticket_name(request))

        async def respond() -> Response:
            async with contextlib.aclosing(ticket.events()) as events:
                entries = [{"b64_json": base64_text(file)} async for file in events]
            return JSONResponse({"created": int(time.time()), "data": entries})

        return await unless_disconnected(request, respond())


def _add_text_outputs(app: FastAPI, server: Server) -> None:
    """Endpoints that return text or scores."""

    @app.post("/v1/prompts", response_model=None, openapi_extra=_request_body(Prompt))
    async def prompts(request: Request) -> dict[str, Any]:
        body = await read_json(request, Prompt)
        served = server.models.with_ability(body.model, "generate")
        words = await run_in_threadpool(served.unknown_words, body.prompt)
        return {"object": "prompt", "model": served.name, **words}

    async def respond(request: Request, job: TaskJob, entry: Callable[[Any], dict[str, Any]]) -> Response:
        async def complete(ticket: Ticket) -> Response:
            async with contextlib.aclosing(ticket.events()) as events:
                entries = [entry(value) async for value in events]
            data = [{"index": number, **fields} for number, fields in enumerate(entries)]
            return JSONResponse({"object": "list", "model": job.served.name, "data": data})

        return await unless_disconnected(request, complete(server.worker.submit(job, ticket_name(request))))

    @app.post(
        "/v1/captions", response_model=None, openapi_extra=_request_body(Captioning, "multipart/form-data")
    )
    async def captions(request: Request) -> Response:
        body, files = await read_form(request, Captioning, image=MAX_INPUT_IMAGES)
        served = server.models.with_ability(body.model, "caption")
        images = await run_in_threadpool(decode_all, files)

        def entry(captions: list[Caption]) -> dict[str, Any]:
            return {"captions": [{"text": x.text, "score": x.score, "seed": x.seed} for x in captions]}

        return await respond(request, tasks.caption(body, served, images), entry)

    @app.post("/v1/scores", response_model=None, openapi_extra=_request_body(Scoring, "multipart/form-data"))
    async def scores(request: Request) -> Response:
        body, files = await read_form(request, Scoring, image=MAX_INPUT_IMAGES)
        served = server.models.with_ability(body.model, "score")
        images = await run_in_threadpool(decode_all, files)

        def entry(scores: list[dict[str, Any]]) -> dict[str, Any]:
            return {"scores": scores}

        return await respond(request, tasks.score(body, served, images), entry)


def required_file(files: Files, name: str) -> bytes:
    """The first file of this name; raises ApiError if there is none."""
    if not files[name]:
        raise ApiError(400, f"the file {name!r} is missing", code="missing_parameter", param=name)
    return files[name][0]


def decode_all(files: Files) -> list[Image.Image]:
    """All images of a request, decoded."""
    required_file(files, "image")
    return [decode_upload(data, "image") for data in files["image"]]


def _request_body(kind: type[BaseModel], media: str = "application/json") -> dict[str, Any]:
    """The request body's entry in /openapi.json."""
    return {"requestBody": {"required": True, "content": {media: {"schema": kind.model_json_schema()}}}}
