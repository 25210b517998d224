"""The endpoints under ``/sdapi/v1``."""

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
from cogview.serving.a1111.request_tracker import RequestTracker, TrackedRequest
from cogview.serving.a1111.requests import Extra, ImageToImage, OneImage, Options, TextToImage
from cogview.serving.api_errors import ApiError
from cogview.serving.generation_job import PartialImage
from cogview.serving.openai.postprocess import Postprocess
from cogview.serving.openai.sizes import MAX_PIXELS
from cogview.serving.pictures import base64_text, image_bytes
from cogview.serving.plumbing import read_json, unless_disconnected
from cogview.serving.schema import Captioning, Upscaling
from cogview.serving.served import ServedModel
from cogview.serving.worker import FinishedImage, Job

if TYPE_CHECKING:
    from cogview.serving.app import Server

PREFIX = "/sdapi/v1"
LANCZOS, SUPER_RESOLUTION = "Lanczos", "cogview"  # names of upscalers
CONSTANT: dict[str, Any] = {  # responses of GET endpoints that always return the same
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
    """Add all endpoints."""
    tracker = RequestTracker()
    _add_options(app, server, tracker)
    _add_generation(app, server, tracker)
    _add_image_tools(app, server)
    _add_lists(app, server)  # last, because one of its paths matches any name


def error_response(error: ApiError) -> JSONResponse:
    """An error in A1111's format."""
    body = {"error": error.code or error.kind, "detail": error.message, "body": "", "errors": error.message}
    return JSONResponse(body, error.status, error.headers)


def owner_of(request: Request, server: Server) -> str:
    """Identifies the sender of a request: a hash of its API key if keys are required, else a constant."""
    authorization = request.headers.get("authorization", "") if server.rules.keys else ""
    return hashlib.sha256(authorization.encode()).hexdigest()


def _add_lists(app: FastAPI, server: Server) -> None:
    @app.get(PREFIX + "/sd-models")
    async def models() -> list[dict[str, Any]]:
        return [
            {
                "title": jobs.title(served),
                "model_name": served.name,
                "hash": served.cogview.model_hash[:10],
                "sha256": served.cogview.model_hash,
                "filename": served.name,
                "config": None,
            }
            for served in server.models.by_name.values()
        ]

    @app.get(PREFIX + "/upscalers")
    async def upscalers() -> list[dict[str, Any]]:
        common = {"model_name": None, "model_path": None, "model_url": None, "scale": 4}
        return [{"name": name, **common} for name in ("None", LANCZOS, SUPER_RESOLUTION)]

    @app.get(PREFIX + "/prompt-styles")
    async def styles() -> list[dict[str, str]]:
        names = server.models.default.cogview.styles
        return [{"name": name, "prompt": "", "negative_prompt": ""} for name in names]

    @app.get(PREFIX + "/{name}")
    async def constant(name: str) -> Any:
        if name not in CONSTANT:
            raise ApiError(404, f"there is nothing at {PREFIX}/{name}", code="not_found")
        return CONSTANT[name]


def _add_options(app: FastAPI, server: Server, tracker: RequestTracker) -> None:
    def selected_model(owner: str) -> ServedModel:
        return jobs.find(server.models, tracker.selected_models.get(owner), "generate")

    @app.get(PREFIX + "/options")
    async def options(request: Request) -> dict[str, Any]:
        served = selected_model(owner_of(request, server))
        return {
            "sd_model_checkpoint": jobs.title(served),
            "sd_checkpoint_hash": served.cogview.model_hash,
            "sd_vae": "Automatic",
            "samples_format": "png",
            "CLIP_stop_at_last_layers": 1,
        }

    @app.post(PREFIX + "/options")
    async def set_options(request: Request) -> None:
        body = await read_json(request, Options)
        if body.sd_model_checkpoint is not None:
            served = jobs.find(server.models, body.sd_model_checkpoint, "generate")
            tracker.selected_models[owner_of(request, server)] = served.name

    @app.get(PREFIX + "/progress")
    async def progress(request: Request, skip_current_image: bool = False) -> dict[str, Any]:
        state, image = tracker.progress(owner_of(request, server))
        current = None
        if image is not None and not skip_current_image:
            current = base64_text(await run_in_threadpool(image_bytes, image, "png", 0))
        return {**state, "current_image": current}

    @app.post(PREFIX + "/interrupt")
    @app.post(PREFIX + "/skip")
    async def interrupt(request: Request) -> dict[str, Any]:
        tracker.interrupt(owner_of(request, server))
        return {}

    @app.post(PREFIX + "/refresh-checkpoints")
    @app.post(PREFIX + "/reload-checkpoint")
    @app.post(PREFIX + "/unload-checkpoint")
    async def no_operation() -> dict[str, Any]:
        return {}


def _add_generation(app: FastAPI, server: Server, tracker: RequestTracker) -> None:
    async def finished_images(tracked: TrackedRequest, postprocess: Postprocess) -> list[Any]:
        images: dict[int, Any] = {}
        async with contextlib.aclosing(tracked.ticket.events()) as events:
            async for event in events:
                if isinstance(event, FinishedImage):
                    images[event.number] = await run_in_threadpool(postprocess, event.generated)
                elif isinstance(event, PartialImage):
                    tracked.image = event.image
        return [images[number] for number in sorted(images)]

    async def respond(
        request: Request, body: TextToImage, served: ServedModel, job: Job, postprocess: Postprocess
    ) -> Response:
        ticket = server.worker.submit(job)
        with tracker.track(owner_of(request, server), ticket) as tracked:

            async def complete() -> Response:
                images = await finished_images(tracked, postprocess)
                file = server.labelling.file
                files = [await run_in_threadpool(file, image, "png", 0) for image in images]
                fields = {
                    "images": [base64_text(data) for data in files] if body.send_images else [],
                    "parameters": jobs.parameters(body),
                    "info": jobs.info(body, served, images, postprocess.ignored),
                }
                return JSONResponse(fields)

            return await unless_disconnected(request, complete())

    def model_for(request: Request, body: TextToImage, ability: str) -> ServedModel:
        owner = owner_of(request, server)
        name = body.checkpoint or tracker.selected_models.get(owner)
        if body.checkpoint is None and name is not None and ability not in server.models.find(name).abilities:
            name = None  # the model selected for generation need not be able to edit
        return jobs.find(server.models, name, ability)

    @app.post(PREFIX + "/txt2img", response_model=None)
    async def txt2img(request: Request) -> Response:
        body = await read_json(request, TextToImage)
        served = model_for(request, body, "generate")
        job = jobs.text_to_image(body, served)
        return await respond(request, body, served, job, job.postprocess)

    @app.post(PREFIX + "/img2img", response_model=None)
    async def img2img(request: Request) -> Response:
        body = await read_json(request, ImageToImage)
        served = model_for(request, body, "edit")
        job = await run_in_threadpool(jobs.edit, body, served)
        return await respond(request, body, served, job, job.postprocess)


def _add_image_tools(app: FastAPI, server: Server) -> None:
    async def result_of(job: Job) -> Any:
        async with contextlib.aclosing(server.worker.submit(job).events()) as events:
            [result] = [event async for event in events]
            return result

    @app.post(PREFIX + "/extra-single-image")
    async def extra(request: Request) -> dict[str, Any]:
        body = await read_json(request, Extra)
        data = jobs.file_bytes(body.image, "image")
        image = await run_in_threadpool(jobs.decode_base64, body.image, "image")
        width, height = (max(1, round(side * body.upscaling_resize)) for side in image.size)
        if width * height > MAX_PIXELS:
            raise ApiError(
                400, f"{width}x{height} are too many pixels; at most {MAX_PIXELS:,}", code="too_large"
            )
        if body.upscaler_1 == SUPER_RESOLUTION and body.upscaling_resize > 1:
            served = server.models.with_ability(None, "upscale")
            times = 2 if body.upscaling_resize <= 2 else 4
            event = await result_of(tasks.upscale(Upscaling(times=times), served, data))
            resized = await run_in_threadpool(Postprocess((width, height)), event.generated)
            result = await run_in_threadpool(server.labelling.file, resized, "png", 0)
        else:
            larger = await run_in_threadpool(image.resize, (width, height), Image.Resampling.LANCZOS)
            result = await run_in_threadpool(image_bytes, larger, "png", 0)
        return {"html_info": "", "image": base64_text(result)}

    @app.post(PREFIX + "/interrogate")
    async def interrogate(request: Request) -> dict[str, str]:
        body = await read_json(request, OneImage)
        image = await run_in_threadpool(jobs.decode_base64, body.image, "image")
        served = server.models.with_ability(None, "caption")
        captions = await result_of(tasks.caption(Captioning(language="en"), served, [image]))
        return {"caption": captions[0].text}

    @app.post(PREFIX + "/png-info")
    async def png_info(request: Request) -> dict[str, Any]:
        body = await read_json(request, OneImage)
        try:
            facts = provenance.read(jobs.file_bytes(body.image, "image"))
        except CogViewError as error:
            raise ApiError(400, str(error), code="bad_image", param="image") from error
        if facts is None:
            return {"info": "", "items": {}, "parameters": {}}
        text = f"{facts.prompt}\nSeed: {facts.seed}, Model: {facts.model}"
        return {"info": text, "items": facts.model_dump(), "parameters": {"Seed": facts.seed}}
