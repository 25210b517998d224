"""``/v1/trainings``: models trained on uploaded images, where the server was started with ``--train``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from cogview.serving.api_errors import ApiError
from cogview.serving.forms import in_time
from cogview.serving.plumbing import read_json
from cogview.serving.schema import NewTraining
from cogview.serving.trainings import SAVED, Trainings
from cogview.training.train_on.model_sizes import SIZES

if TYPE_CHECKING:
    from cogview.serving.app import Server

MOST_PARTS = 200  # files of one request


def add_trainings(app: FastAPI, server: Server) -> None:
    """The endpoints; without ``--train`` the list says so and the others are 404."""

    def own() -> Trainings:
        if server.trainings is None:
            message = "this server does not train; start it with --train DIR"
            raise ApiError(404, message, code="training_off")
        return server.trainings

    async def described(name: str) -> dict[str, Any]:
        trainings = own()
        return await run_in_threadpool(lambda: trainings.describe(trainings.find(name)))

    @app.get("/v1/trainings")
    async def trainings() -> dict[str, Any]:
        if server.trainings is None:
            return {"object": "list", "enabled": False, "data": []}
        found = server.trainings
        data = await run_in_threadpool(lambda: [found.brief(run) for run in found.runs()])
        sizes = {name: size.for_whom for name, size in SIZES.items()}
        most = server.rules.max_upload
        return {"object": "list", "enabled": True, "max_upload": most, "sizes": sizes, "data": data}

    @app.post("/v1/trainings")
    async def create(request: Request) -> dict[str, Any]:
        asked = await read_json(request, NewTraining)
        if asked.start is not None:
            server.models.find(asked.start)
        run = await run_in_threadpool(own().new, asked)
        return await described(run.name)

    @app.get("/v1/trainings/{name}")
    async def one(name: str) -> dict[str, Any]:
        return await described(name)

    @app.delete("/v1/trainings/{name}")
    async def remove(name: str) -> dict[str, Any]:
        await run_in_threadpool(own().remove, own().find(name))
        return {"object": "training", "name": name, "deleted": True}

    @app.post("/v1/trainings/{name}/files")
    async def files(name: str, request: Request) -> dict[str, Any]:
        run = own().find(name)
        refused = await run_in_threadpool(own().take, run, await _uploads(request))
        return {"object": "files", "refused": refused}

    @app.post("/v1/trainings/{name}/plan")
    async def plan(name: str) -> dict[str, Any]:
        await run_in_threadpool(own().start, own().find(name), "plan")
        return await described(name)

    @app.post("/v1/trainings/{name}/start")
    async def start(name: str) -> dict[str, Any]:
        await run_in_threadpool(own().start, own().find(name), "train")
        return await described(name)

    @app.post("/v1/trainings/{name}/stop")
    async def stop(name: str) -> dict[str, Any]:
        await run_in_threadpool(own().stop, own().find(name))
        return await described(name)

    @app.get("/v1/trainings/{name}/sheets/{sheet:path}")
    async def sheet(name: str, sheet: str) -> FileResponse:
        path = await run_in_threadpool(own().sheet, own().find(name), sheet)
        return FileResponse(path, media_type="image/png")


async def _uploads(request: Request) -> list[tuple[str, bytes]]:
    """The files of a form, each with its name; ApiError for another body."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise ApiError(415, "send a form, with Content-Type: multipart/form-data", code="not_a_form")
    try:
        async with in_time():
            form = await request.form(max_files=MOST_PARTS, max_fields=0)
    except HTTPException as error:
        raise ApiError(400, str(error.detail), code="not_a_form") from None
    try:
        found = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        uploads = [(value.filename or "", await value.read()) for value in found]
    finally:
        await form.close()
    if not uploads:
        kinds = ", ".join(sorted(kind[1:] for kind in SAVED))
        raise ApiError(400, f"no files in the form; send {kinds} and txt", code="missing_parameter")
    return uploads
