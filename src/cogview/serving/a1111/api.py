"""The paths under ``/sdapi/v1``."""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from cogview.checkpoints import provenance
from cogview.errors import CogViewError
from cogview.serving import tasks
from cogview.serving.a1111 import jobs
from cogview.serving.a1111.board import Board, Running
from cogview.serving.a1111.requests import Extra, ImageToImage, OneImage, Options, TextToImage
from cogview.serving.api_errors import ApiError
from cogview.serving.drawing import Partial
from cogview.serving.openai.finish import Finish
from cogview.serving.openai.sizes import MAX_PIXELS
from cogview.serving.pictures import base64_text, encoded
from cogview.serving.plumbing import read_json, unless_gone
from cogview.serving.schema import Captioning, Upscaling
from cogview.serving.served import Served
from cogview.serving.worker import Job, Made

if TYPE_CHECKING:
    from cogview.serving.app import Server

PREFIX = "/sdapi/v1"
LANCZOS, OWN = "Lanczos", "cogview"
CONSTANT: dict[str, Any] = {
    "latent-upscale-modes": [],
    "sd-vae": [],
    "sd-modules": [],
    "loras": [],
    "hypernetworks": [],
    "face-restorers": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "samplers": [{"name": "Autoregressive", "aliases": ["autoregressive"], "options": {}}],
    "schedulers": [{"name": "automatic", "label": "Automatic", "aliases": None, "default_rho": -1}],
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
}


def add_a1111(app: FastAPI, server: Server) -> None:
    """All paths."""
    board = Board()
    _add_options(app, server, board)
    _add_drawing(app, server, board)
    _add_tools(app, server)
    _add_lists(app, server)  # the last, since one of its paths takes any name


def refused(error: ApiError) -> JSONResponse:
    """An error in the shape of this API."""
    told = {"error": error.code or error.kind, "detail": error.message, "body": "", "errors": error.message}
    return JSONResponse(told, error.status, error.headers)


def owner_of(request: Request, server: Server) -> str:
    """Whose request it is: by its key where there are keys."""
    given = request.headers.get("authorization", "") if server.rules.keys else ""
    return hashlib.sha256(given.encode()).hexdigest()


def _add_lists(app: FastAPI, server: Server) -> None:
    @app.get(PREFIX + "/sd-models")
    async def models() -> list[dict[str, Any]]:
        return [
            {
                "title": jobs.title(one),
                "model_name": one.name,
                "hash": one.cogview.model_hash[:10],
                "sha256": one.cogview.model_hash,
                "filename": one.name,
                "config": None,
            }
            for one in server.models.by_name.values()
        ]

    @app.get(PREFIX + "/upscalers")
    async def upscalers() -> list[dict[str, Any]]:
        common = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
        return [{"name": name, **common} for name in ("None", LANCZOS, OWN)]

    @app.get(PREFIX + "/prompt-styles")
    async def styles() -> list[dict[str, str]]:
        found = server.models.default.cogview.styles
        return [{"name": name, "prompt": "", "negative_prompt": ""} for name in found]

    @app.get(PREFIX + "/{name}")
    async def constant(name: str) -> Any:
        if name not in CONSTANT:
            raise ApiError(404, f"there is nothing at {PREFIX}/{name}", code="not_found")
        return CONSTANT[name]


def _add_options(app: FastAPI, server: Server, board: Board) -> None:
    def chosen(owner: str) -> Served:
        return jobs.find(server.models, board.chosen.get(owner), "generate")

    @app.get(PREFIX + "/options")
    async def options(request: Request) -> dict[str, Any]:
        served = chosen(owner_of(request, server))
        return {
            "sd_model_checkpoint": jobs.title(served),
            "sd_checkpoint_hash": served.cogview.model_hash,
            "sd_vae": "Automatic",
            "samples_format": "png",
            "CLIP_stop_at_last_layers": 1,
        }

    @app.post(PREFIX + "/options")
    async def choose(request: Request) -> None:
        asked = await read_json(request, Options)
        if asked.sd_model_checkpoint is not None:
            found = jobs.find(server.models, asked.sd_model_checkpoint, "generate")
            board.chosen[owner_of(request, server)] = found.name

    @app.get(PREFIX + "/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        told, image = board.progress(owner_of(request, server))
        shown = None
        if image is not None and not skip_current_image:
            shown = base64_text(await run_in_threadpool(encoded, image, "png", 0))
        return {**told, "current_image": shown}

    @app.post(PREFIX + "/interrupt")
    @app.post(PREFIX + "/skip")
    async def interrupt(request: Request) -> dict[str, Any]:
        board.interrupt(owner_of(request, server))
        return {}

    @app.post(PREFIX + "/refresh-checkpoints")
    @app.post(PREFIX + "/reload-checkpoint")
    @app.post(PREFIX + "/unload-checkpoint")
    async def nothing() -> dict[str, Any]:
        return {}


def _add_drawing(app: FastAPI, server: Server, board: Board) -> None:
    async def made(running: Running, finish: Finish) -> list[Any]:
        found: dict[int, Any] = {}
        async with contextlib.aclosing(running.ticket.events()) as coming:
            async for event in coming:
                if isinstance(event, Made):
                    found[event.number] = await run_in_threadpool(finish, event.picture)
                elif isinstance(event, Partial):
                    running.image = event.image
        return [found[number] for number in sorted(found)]

    async def answered(
        request: Request, asked: TextToImage, served: Served, job: Job, finish: Finish
    ) -> Response:
        ticket = server.worker.submit(job)
        with board.following(owner_of(request, server), ticket) as running:

            async def whole() -> Response:
                pictures = await made(running, finish)
                file = server.labelling.file
                files = [await run_in_threadpool(file, one, "png", 0) for one in pictures]
                told = {
                    "images": [base64_text(data) for data in files] if asked.send_images else [],
                    "parameters": jobs.sent_back(asked),
                    "info": jobs.info(asked, served, pictures, finish.ignored),
                }
                return JSONResponse(told)

            return await unless_gone(request, whole())

    def model_for(request: Request, asked: TextToImage, ability: str) -> Served:
        owner = owner_of(request, server)
        name = asked.checkpoint or board.chosen.get(owner)
        if (
            asked.checkpoint is None
            and name is not None
            and ability not in server.models.find(name).abilities
        ):
            name = None  # the model that was chosen for drawing need not be one that edits
        return jobs.find(server.models, name, ability)

    @app.post(PREFIX + "/txt2img", response_model=None)
    async def txt2img(request: Request) -> Response:
        asked = await read_json(request, TextToImage)
        served = model_for(request, asked, "generate")
        job = jobs.drawing(asked, served)
        return await answered(request, asked, served, job, job.finish)

    @app.post(PREFIX + "/img2img", response_model=None)
    async def img2img(request: Request) -> Response:
        asked = await read_json(request, ImageToImage)
        served = model_for(request, asked, "edit")
        call = await run_in_threadpool(jobs.edit, asked, served)
        return await answered(request, asked, served, call, call.finish)


def _add_tools(app: FastAPI, server: Server) -> None:
    async def result(job: Job) -> Any:
        async with contextlib.aclosing(server.worker.submit(job).events()) as coming:
            [found] = [event async for event in coming]
            return found

    @app.post(PREFIX + "/extra-single-image")
    async def extra(request: Request) -> dict[str, Any]:
        asked = await read_json(request, Extra)
        data = jobs.file_of(asked.image, "image")
        image = await run_in_threadpool(jobs.decoded, asked.image, "image")
        width, height = (max(1, round(side * asked.upscaling_resize)) for side in image.size)
        if width * height > MAX_PIXELS:
            raise ApiError(
                400, f"{width}x{height} are too many pixels; at most {MAX_PIXELS:,}", code="too_large"
            )
        if asked.upscaler_1 == OWN and asked.upscaling_resize > 1:
            served = server.models.able(None, "upscale")
            times = 2 if asked.upscaling_resize <= 2 else 4
            event = await result(tasks.upscale(Upscaling(times=times), served, data))
            picture = await run_in_threadpool(Finish((width, height)), event.picture)
            made = await run_in_threadpool(server.labelling.file, picture, "png", 0)
        else:
            larger = await run_in_threadpool(image.resize, (width, height), Image.Resampling.LANCZOS)
            made = await run_in_threadpool(encoded, larger, "png", 0)
        return {"html_info": "", "image": base64_text(made)}

    @app.post(PREFIX + "/interrogate")
    async def interrogate(request: Request) -> dict[str, str]:
        asked = await read_json(request, OneImage)
        image = await run_in_threadpool(jobs.decoded, asked.image, "image")
        served = server.models.able(None, "caption")
        captions = await result(tasks.caption(Captioning(language="en"), served, [image]))
        return {"caption": captions[0].text}

    @app.post(PREFIX + "/png-info")
    async def png_info(request: Request) -> dict[str, Any]:
        asked = await read_json(request, OneImage)
        try:
            facts = provenance.read(jobs.file_of(asked.image, "image"))
        except CogViewError as error:
            raise ApiError(400, str(error), code="bad_image", param="image") from error
        if facts is None:
            return {"info": "", "items": {}, "parameters": {}}
        text = f"{facts.prompt}\nSeed: {facts.seed}, Model: {facts.model}"
        return {"info": text, "items": facts.model_dump(), "parameters": {"Seed": facts.seed}}
