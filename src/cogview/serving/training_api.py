"""``/v1/trainings``: training models on uploaded images, if the server was started with ``--train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from cogview.serving.api_errors import ApiError
from cogview.serving.forms import body_timeout
from cogview.serving.plumbing import read_json
from cogview.serving.schema import NewTraining
from cogview.serving.trainings import IMAGE_TYPES, Trainings
from cogview.training.train_on.model_sizes import SIZES

if TYPE_CHECKING:
    from cogview.serving.app import Server

MAX_REQUEST_FILES = 200  # files of one request


def add_trainings(app: FastAPI, server: Server) -> None:
    """Add the endpoints; without ``--train`` the list reports it as disabled and the others return 404."""

    def enabled() -> Trainings:
        if server.trainings is None:
            message = "this server does not train; start it with --train DIR"
            raise ApiError(404, message, code="training_off")
        return server.trainings

    async def described(name: str) -> dict[str, Any]:
        trainings = enabled()
        return await run_in_threadpool(lambda: trainings.describe(trainings.find(name)))

    @app.get("/v1/trainings")
    async def list_trainings() -> dict[str, Any]:
        if server.trainings is None:
            return {"object": "list", "enabled": False, "data": []}
        trainings = server.trainings
        data = await run_in_threadpool(lambda: [trainings.summary(run) for run in trainings.runs()])
        sizes = {name: size.for_whom for name, size in SIZES.items()}
        limit = server.rules.max_upload
        return {"object": "list", "enabled": True, "max_upload": limit, "sizes": sizes, "data": data}

    @app.post("/v1/trainings")
    async def create(request: Request) -> dict[str, Any]:
        body = await read_json(request, NewTraining)
        if body.start is not None:
            server.models.find(body.start)
        run = await run_in_threadpool(enabled().create, body)
        return await described(run.name)

    @app.get("/v1/trainings/{name}")
    async def training(name: str) -> dict[str, Any]:
        return await described(name)

    @app.delete("/v1/trainings/{name}")
    async def remove(name: str) -> dict[str, Any]:
        await run_in_threadpool(enabled().remove, enabled().find(name))
        return {"object": "training", "name": name, "deleted": True}

    @app.post("/v1/trainings/{name}/files")
    async def files(name: str, request: Request) -> dict[str, Any]:
        run = enabled().find(name)
        refused = await run_in_threadpool(enabled().add_files, run, await _uploads(request))
        return {"object": "files", "refused": refused}

    @app.post("/v1/trainings/{name}/plan")
    async def plan(name: str) -> dict[str, Any]:
        await run_in_threadpool(enabled().start, enabled().find(name), "plan")
        return await described(name)

    @app.post("/v1/trainings/{name}/start")
    async def start(name: str) -> dict[str, Any]:
        await run_in_threadpool(enabled().start, enabled().find(name), "train")
        return await described(name)

    @app.post("/v1/trainings/{name}/stop")
    async def stop(name: str) -> dict[str, Any]:
        await run_in_threadpool(enabled().stop, enabled().find(name))
        return await described(name)

    @app.get("/v1/trainings/{name}/sheets/{sheet:path}")
    async def sheet(name: str, sheet: str) -> FileResponse:
        path = await run_in_threadpool(enabled().sheet, enabled().find(name), sheet)
        return FileResponse(path, media_type="image/png")


async def _uploads(request: Request) -> list[tuple[str, bytes]]:
    """The files of a form with their names; raises ApiError if the body is no form or has no files."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(415, "send a form, with Content-Type: multipart/form-data", code="not_a_form")
    try:
        async with body_timeout():
            form = await request.form(max_files=MAX_REQUEST_FILES, max_fields=0)
    except HTTPException as error:
        raise ApiError(400, str(error.detail), code="not_a_form") from None
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [(file.filename or "", await file.read()) for file in files]
    finally:
        await form.close()
    if not uploads:
        types = ", ".join(sorted(suffix[1:] for suffix in IMAGE_TYPES))
        raise ApiError(400, f"no files in the form; send {types} and txt", code="missing_parameter")
    return uploads
