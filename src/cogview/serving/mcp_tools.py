"""Model Context Protocol tools for agents: generate, edit, describe and rank images.

Images are sent and received as base64; with a folder, the agent may also name files in it, and results are
saved there. Requests share the worker, queue and limits of the HTTP API.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ImageContent, TextContent, ToolAnnotations
from PIL import Image
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from cogview import __version__
from cogview.errors import CogViewError
from cogview.files import read_bytes, write_file
from cogview.serving import tasks
from cogview.serving.a1111.jobs import file_bytes
from cogview.serving.api_errors import ApiError
from cogview.serving.app import Server
from cogview.serving.generation_job import GenerationJob
from cogview.serving.openai.postprocess import Postprocess
from cogview.serving.pictures import base64_text, decode_upload
from cogview.serving.schema import MAX_IMAGES, Captioning, Edit, Generation, Scoring, validation_error
from cogview.serving.worker import FinishedImage, Job, Ticket

INSTRUCTIONS = (
    "Generates small images from a sentence in English or Chinese, and edits, describes and ranks images. "
    "Describe what the image should show in a few words: the models are trained on short captions."
)
MAX_RANKED = 8
REPORT_SECONDS = 1.0
Content = list[ImageContent | TextContent]
ImageText = Annotated[
    str, Field(description="An image: base64, a data URL, or the name of a file in the folder.")
]
Prompt = Annotated[
    str, Field(description="What the image should show, in a few words, in English or Chinese.")
]
Side = Annotated[int | None, Field(description="Pixels; default: the model's size.")]
Seed = Annotated[
    int | None, Field(ge=0, description="The same seed generates the same image; default: a random seed.")
]
Count = Annotated[int, Field(ge=1, le=MAX_IMAGES)]
Quality = Literal["low", "medium", "high", "max"]
GENERATES = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
M = TypeVar("M", bound=BaseModel)
READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class Tools:
    """The tools for a server's models. folder: where images are saved, and may be read from."""

    server: Server
    folder: Path | None = None

    async def generate(
        self,
        context: Context,
        prompt: Prompt,
        n: Count = 1,
        width: Side = None,
        height: Side = None,
        seed: Seed = None,
        style: Annotated[str | None, Field(description="One of the model's styles.")] = None,
        negative_prompt: Annotated[str | None, Field(description="What the image should not show.")] = None,
        quality: Quality = "medium",
        transparent: Annotated[bool, Field(description="Remove a uniform background.")] = False,
        model: str | None = None,
    ) -> Content:
        """Generate images from a sentence."""
        fields = _without_none(
            prompt=prompt, n=n, seed=seed, style=style, negative_prompt=negative_prompt, model=model
        )
        fields |= {"quality": quality, "size": _size(width, height), "truncate": True}
        fields |= {"background": "transparent"} if transparent else {}
        with _tool_errors():
            request = _validate(Generation, fields)
            job = GenerationJob.of(request, self.server.models.with_ability(request.model, "generate"))
            return await self._generate(context, job, job.postprocess)

    async def edit(
        self,
        context: Context,
        image: ImageText,
        prompt: Prompt,
        mask: Annotated[
            str | None,
            Field(description="An image of the same size, white (or transparent) where it changes."),
        ] = None,
        box: Annotated[
            list[str], Field(description="Areas that change: left,top,right,bottom in pixels or per cent.")
        ] = [],  # noqa: B006  (never modified)
        n: Count = 1,
        seed: Seed = None,
        quality: Quality = "medium",
        model: str | None = None,
    ) -> Content:
        """Regenerate part of an image; without mask and box, random parts of the whole image."""
        fields = _without_none(prompt=prompt, n=n, seed=seed, model=model)
        fields |= {"quality": quality, "truncate": True}
        with _tool_errors():
            request = _validate(Edit, fields | ({"box": tuple(box)} if box else {}))
            served = self.server.models.with_ability(request.model, "edit")
            original = await self._read(image, "image")
            edited = None if mask is None else await self._read(mask, "mask")
            job = tasks.edit(request, served, original, edited)
            return await self._generate(context, job, job.postprocess)

    async def describe(
        self,
        context: Context,
        image: ImageText,
        n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="Captions.")] = 1,
        language: Literal["en", "zh"] = "en",
        model: str | None = None,
    ) -> str:
        """Describe an image: captions as JSON, the most likely first."""
        with _tool_errors():
            request = _validate(Captioning, _without_none(n=n, language=language, model=model))
            served = self.server.models.with_ability(request.model, "caption")
            original = await self._read(image, "image")
            [captions] = await self._run(context, tasks.caption(request, served, [original]))
        entries = [{"text": caption.text, "score": caption.score} for caption in captions]
        return json.dumps(entries, ensure_ascii=False)

    async def rank(
        self,
        context: Context,
        prompt: Prompt,
        images: Annotated[list[ImageText], Field(min_length=1, max_length=MAX_RANKED)],
        model: str | None = None,
    ) -> str:
        """Rank images by how well a sentence describes them: their numbers (from 0) and caption losses as
        JSON, the best first."""
        with _tool_errors():
            request = _validate(Scoring, _without_none(model=model) | {"prompt": (prompt,)})
            served = self.server.models.with_ability(request.model, "score")
            candidates = [await self._read(image, "images") for image in images]
            scores = await self._run(context, tasks.score(request, served, candidates))
        losses = [score["caption_loss"] for [score] in scores]
        order = sorted(range(len(losses)), key=losses.__getitem__)
        return json.dumps([{"image": number, "caption_loss": losses[number]} for number in order])

    async def _generate(self, context: Context, job: Job, postprocess: Postprocess) -> Content:
        """The images of a job, each followed by its description as JSON."""
        content: Content = []
        for number, finished in enumerate(await self._run(context, job)):
            image = await run_in_threadpool(postprocess, finished.generated)
            data = await run_in_threadpool(self.server.labelling.file, image, "png", 0)
            description: dict[str, Any] = {
                "seed": image.seed,
                "index": image.index,
                "size": "{}x{}".format(*image.image.size),
                "caption": image.caption,
                "model": image.model,
            }
            if self.folder is not None:
                description["file"] = str(self._save(data, image.seed, number))
            content.append(ImageContent(data=base64_text(data), mime_type="image/png"))
            content.append(TextContent(text=json.dumps(description, ensure_ascii=False)))
        if postprocess.ignored:
            content.append(TextContent(text=f"ignored: {', '.join(postprocess.ignored)}"))
        return content

    async def _run(self, context: Context, job: Job) -> list[Any]:
        """The results of a job; its progress is reported while it is computed."""
        ticket = self.server.worker.submit(job)
        reports = asyncio.create_task(_report(context, ticket))
        try:
            async with contextlib.aclosing(ticket.events()) as events:
                results = [event async for event in events]
        finally:
            reports.cancel()
        images = [event for event in results if isinstance(event, FinishedImage)]
        return sorted(images, key=lambda event: event.number) or results

    async def _read(self, text: str, field: str) -> Image.Image:
        """An image from base64, a data URL, or the name of a file in the folder."""
        name = Path(text) if len(text) < 256 else None
        if self.folder is not None and name is not None and name.suffix:
            path = (self.folder / name).resolve()
            if not path.is_relative_to(self.folder.resolve()):
                raise ApiError(400, f"{field}: {text} is outside of the folder", param=field)
            try:
                data = await run_in_threadpool(read_bytes, path, self.server.rules.max_upload)
            except CogViewError as error:
                message = str(error).replace(str(path), text)
                raise ApiError(400, f"{field}: {message}", code="bad_image", param=field) from None
            return await run_in_threadpool(decode_upload, data, field)
        return await run_in_threadpool(decode_upload, file_bytes(text, field), field)

    def _save(self, data: bytes, seed: int, number: int) -> Path:
        """Write a file under an unused name; returns its path."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        stem, suffix = f"{seed}-{number}", 0
        while (path := self.folder / (f"{stem}-{suffix}.png" if suffix else f"{stem}.png")).exists():
            suffix += 1
        write_file(path, data)
        return path


def mcp_server(tools: Tools) -> MCPServer[Any]:
    """The tools as a server of the official MCP SDK."""
    server: MCPServer[Any] = MCPServer(
        "cogview", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    for name, function, hints in (
        ("generate_image", tools.generate, GENERATES),
        ("edit_image", tools.edit, GENERATES),
        ("describe_image", tools.describe, READ_ONLY),
        ("rank_images", tools.rank, READ_ONLY),
    ):
        server.add_tool(function, name=name, annotations=hints, structured_output=False)
    return server


async def _report(context: Context, ticket: Ticket) -> None:
    """Report progress periodically, for clients that request it."""
    while True:
        await context.report_progress(ticket.progress, 1.0)
        await asyncio.sleep(REPORT_SECONDS)


def _validate(kind: type[M], fields: dict[str, Any]) -> M:
    """A request with the same schema as over HTTP; raises ApiError if a field is invalid."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error, kind) from None


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _size(width: int | None, height: int | None) -> str:
    sides = [side for side in (width, height) if side is not None]
    return f"{sides[0]}x{sides[-1]}" if sides else "auto"


@contextlib.contextmanager
def _tool_errors() -> Iterator[None]:
    """Turn ApiErrors into tool errors, whose messages the agent reads."""
    try:
        yield
    except ApiError as error:
        raise ToolError(error.message) from None
