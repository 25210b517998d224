"""The application: OpenAI's Images API, and what it lacks, over the models of this server.

``POST /v1/images/generations`` streams images on their way as server-sent events: a model that draws row by
row shows them at the price of decoding.
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
from cogview.serving.answers import Answer, event_stream
from cogview.serving.api_errors import OURS, ApiError
from cogview.serving.drawing import Drawing
from cogview.serving.forms import Files, read_form
from cogview.serving.guard import RequestGuard, Rules
from cogview.serving.labelling import Labelling
from cogview.serving.metrics import Metrics
from cogview.serving.openai.finish import usage
from cogview.serving.pictures import Shelf, base64_text, opened
from cogview.serving.plumbing import read_json, ticket_name, unless_gone
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
from cogview.serving.tasks import Call
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
MOST_EDITED = 16  # images of an edit, as in OpenAI's API; the first is edited
MOST_TICKETS = 64  # of a request for places in the queue
MOST_DESCRIBED = 8  # images of a request for captions or scores


@dataclass
class Server:
    """All that the endpoints share.

    drain: seconds that requests are taken after the signal to stop, while ``/readyz`` says no.
    """

    models: Models
    worker: Worker
    metrics: Metrics
    rules: Rules = field(default_factory=Rules)
    shelf: Shelf = field(default_factory=Shelf)
    labelling: Labelling = field(default_factory=Labelling)
    drain: float = 0.0
    draining: bool = False
    trainings: Trainings | None = None


def application(server: Server) -> ASGIApp:
    """The ASGI application; the worker is started and closed by whoever runs it."""
    app = FastAPI(
        title="cogview",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=TELEMETRY,
    )
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
    _add_pictures(app, server)
    _add_words(app, server)
    a1111.add_a1111(app, server)
    add_trainings(app, server)
    paths = frozenset(str(getattr(route, "path", "")) for route in app.routes)
    rules = Rules(server.rules.hosts, server.rules.keys, server.rules.max_upload, paths)
    return RequestGuard(app, rules, server.metrics)


# ------------------------------------------------------------------------------------------ errors


def _refused(request: Request, error: ApiError) -> JSONResponse:
    if request.url.path.startswith(a1111.PREFIX):
        return a1111.refused(error)
    return JSONResponse(error.body, error.status, error.headers)


def _missing(request: Request, error: HTTPException) -> JSONResponse:
    told = {404: f"there is nothing at {request.url.path}", 405: f"{request.method} is not for this path"}
    message = told.get(error.status_code, str(error.detail))
    code = "not_found" if error.status_code == 404 else None
    return _refused(request, ApiError(error.status_code, message, code=code))


def _gone(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=499)  # nobody reads it


def _failed(request: Request, error: Exception) -> JSONResponse:
    return _refused(request, ApiError(500, "the server failed; its log says how", kind=OURS, code="internal"))


# ------------------------------------------------------------------------------------------ pages


def _add_pages(app: FastAPI, server: Server) -> None:
    """The studio, what is served, how it goes."""

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
            raise ApiError(503, "the server is stopping", kind=OURS, code="stopping", retry_after=30)
        return JSONResponse({"status": "ok", "version": __version__, "waiting": server.worker.waiting})

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Whether a load balancer should send requests here."""
        if server.draining or server.worker.closed:
            raise ApiError(503, "the server is about to stop", kind=OURS, code="stopping", retry_after=30)
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
        names = request.query_params.getlist("ticket")[:MOST_TICKETS]
        places = server.worker.places(names)
        return {"waiting": server.worker.waiting, "tickets": {k: asdict(v) for k, v in places.items()}}

    @app.get("/v1/pictures/{name}")
    async def picture(name: str) -> Response:
        found = await run_in_threadpool(server.shelf.get, name)
        if found is None:
            raise ApiError(404, "there is no such picture, or not any more", code="not_found")
        return Response(found[0], media_type=found[1])


# ------------------------------------------------------------------------------------------ drawing


def _add_generations(app: FastAPI, server: Server) -> None:
    @app.post("/v1/images/generations", response_model=None, openapi_extra=_takes(Generation))
    async def generations(request: Request) -> Response:
        asked = await read_json(request, Generation)
        job = Drawing.of(asked, server.models.find(asked.model))
        base, name = str(request.base_url), job.served.name
        words = await run_in_threadpool(job.served.unknown_words, asked.prompt)
        finish = replace(job.finish, words={key: found for key, found in words.items() if found})
        answer = Answer(server, base, asked, name, finish, job.usage, job.picture_usage)
        ticket = server.worker.submit(job, ticket_name(request))
        if asked.stream:
            return event_stream(answer.events(ticket), answer.headers)
        return await unless_gone(request, answer.whole(ticket))


def _add_pictures(app: FastAPI, server: Server) -> None:
    """What is asked with an image, and answered by images."""

    def form(kind: type[BaseModel]) -> dict[str, Any]:
        return {"response_model": None, "openapi_extra": _takes(kind, "multipart/form-data")}

    async def answered(request: Request, asked: Output, call: Call) -> Response:
        counts = usage(call.text, call.drawn, call.read)
        one_of = usage(call.text, call.drawn // max(1, getattr(asked, "n", 1)), call.read)
        base, name = str(request.base_url), call.served.name
        kind = "image_edit" if isinstance(asked, Edit) else "image_generation"
        answer = Answer(server, base, asked, name, call.finish, counts, one_of, kind)
        ticket = server.worker.submit(call, ticket_name(request))
        if getattr(asked, "stream", False):
            return event_stream(answer.events(ticket), answer.headers)
        return await unless_gone(request, answer.whole(ticket))

    @app.post("/v1/images/edits", **form(Edit))
    async def edits(request: Request) -> Response:
        asked, files = await read_form(request, Edit, image=MOST_EDITED, mask=1, markup=1)
        served = server.models.able(asked.model, "edit")
        image = await run_in_threadpool(opened, one(files, "image"), "image")
        mask = await run_in_threadpool(opened, files["mask"][0], "mask") if files["mask"] else None
        ignored = ["image (all but the first)"] if len(files["image"]) > 1 else []
        ignored += ["markup"] if files["markup"] else []
        return await answered(request, asked, tasks.edit(asked, served, image, mask, ignored))

    @app.post("/v1/images/variations", **form(Variation))
    async def variations(request: Request) -> Response:
        asked, files = await read_form(request, Variation, image=1)
        served = server.models.able(asked.model, "edit")
        image = await run_in_threadpool(opened, one(files, "image"), "image")
        return await answered(request, asked, tasks.vary(asked, served, image))

    @app.post("/v1/images/upscales", **form(Upscaling))
    async def upscales(request: Request) -> Response:
        asked, files = await read_form(request, Upscaling, image=1)
        served = server.models.able(asked.model, "upscale")
        await run_in_threadpool(opened, one(files, "image"), "image")
        return await answered(request, asked, tasks.upscale(asked, served, one(files, "image")))

    @app.post("/v1/images/cutouts", **form(CutOut))
    async def cut_outs(request: Request) -> Response:
        asked, files = await read_form(request, CutOut, image=1)
        data = one(files, "image")
        await run_in_threadpool(opened, data, "image")
        call = tasks.cut_out(server.labelling, server.models.find(asked.model), data)
        ticket = server.worker.submit(call, ticket_name(request))

        async def whole() -> Response:
            async with contextlib.aclosing(ticket.events()) as coming:
                found = [{"b64_json": base64_text(made)} async for made in coming]
            return JSONResponse({"created": int(time.time()), "data": found})

        return await unless_gone(request, whole())


def _add_words(app: FastAPI, server: Server) -> None:
    """What is answered by words and numbers."""

    @app.post("/v1/prompts", response_model=None, openapi_extra=_takes(Prompt))
    async def prompts(request: Request) -> dict[str, Any]:
        asked = await read_json(request, Prompt)
        served = server.models.able(asked.model, "generate")
        words = await run_in_threadpool(served.unknown_words, asked.prompt)
        return {"object": "prompt", "model": served.name, **words}

    async def answered(request: Request, call: Call, entry: Callable[[Any], dict[str, Any]]) -> Response:
        async def whole(ticket: Ticket) -> Response:
            async with contextlib.aclosing(ticket.events()) as coming:
                found = [entry(value) async for value in coming]
            data = [{"index": number, **told} for number, told in enumerate(found)]
            return JSONResponse({"object": "list", "model": call.served.name, "data": data})

        return await unless_gone(request, whole(server.worker.submit(call, ticket_name(request))))

    @app.post("/v1/captions", response_model=None, openapi_extra=_takes(Captioning, "multipart/form-data"))
    async def captions(request: Request) -> Response:
        asked, files = await read_form(request, Captioning, image=MOST_DESCRIBED)
        served = server.models.able(asked.model, "caption")
        images = await run_in_threadpool(all_opened, files)

        def entry(found: list[Caption]) -> dict[str, Any]:
            return {"captions": [{"text": x.text, "score": x.score, "seed": x.seed} for x in found]}

        return await answered(request, tasks.caption(asked, served, images), entry)

    @app.post("/v1/scores", response_model=None, openapi_extra=_takes(Scoring, "multipart/form-data"))
    async def scores(request: Request) -> Response:
        asked, files = await read_form(request, Scoring, image=MOST_DESCRIBED)
        served = server.models.able(asked.model, "score")
        images = await run_in_threadpool(all_opened, files)

        def entry(found: list[dict[str, Any]]) -> dict[str, Any]:
            return {"scores": found}

        return await answered(request, tasks.score(asked, served, images), entry)


def one(files: Files, name: str) -> bytes:
    """The file that has to be there."""
    if not files[name]:
        raise ApiError(400, f"the file {name!r} is missing", code="missing_parameter", param=name)
    return files[name][0]


def all_opened(files: Files) -> list[Image.Image]:
    """All images of a request."""
    one(files, "image")
    return [opened(data, "image") for data in files["image"]]


def _takes(kind: type[BaseModel], media: str = "application/json") -> dict[str, Any]:
    """What /openapi.json says of a body."""
    return {"requestBody": {"required": True, "content": {media: {"schema": kind.model_json_schema()}}}}
