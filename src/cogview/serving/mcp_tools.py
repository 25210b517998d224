"""Tools for agents, by the Model Context Protocol: generate, edit, describe and rank images.

Images come and go as base64 inside the messages; with a folder they may also be files in it, and results are
saved there. Requests take the same way as those over HTTP: one worker, its queue, its limits.
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
from cogview.serving.a1111.jobs import file_of
from cogview.serving.api_errors import ApiError
from cogview.serving.app import Server
from cogview.serving.drawing import Drawing
from cogview.serving.openai.finish import Finish
from cogview.serving.pictures import base64_text, opened
from cogview.serving.schema import MOST, Captioning, Edit, Generation, Scoring, refusal
from cogview.serving.worker import Job, Made, Ticket

INSTRUCTIONS = (
    "Generates small pictures from a sentence in English or Chinese, edits, describes and ranks them. "
    "Describe what is to be seen in a few words: the models read short captions."
)
MOST_RANKED = 8
REPORT_SECONDS = 1.0
Content = list[ImageContent | TextContent]
Picture = Annotated[
    str, Field(description="An image: base64, a data URL, or the name of a file in the folder.")
]
Prompt = Annotated[str, Field(description="What is to be seen, in a few words, English or Chinese.")]
Side = Annotated[int | None, Field(description="Pixels; default: the model's own size.")]
Seed = Annotated[
    int | None, Field(ge=0, description="The same seed draws the same image; default: a new one.")
]
Count = Annotated[int, Field(ge=1, le=MOST)]
Quality = Literal["low", "medium", "high", "max"]
DRAWS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
M = TypeVar("M", bound=BaseModel)
LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


@dataclass(frozen=True)
class Tools:
    """The tools over a server's models. folder: where images may be read from, and are saved."""

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
        negative_prompt: Annotated[str | None, Field(description="What is not to be seen.")] = None,
        quality: Quality = "medium",
        transparent: Annotated[bool, Field(description="Remove an even background.")] = False,
        model: str | None = None,
    ) -> Content:
        """Generate images from a sentence."""
        fields = _given(
            prompt=prompt, n=n, seed=seed, style=style, negative_prompt=negative_prompt, model=model
        )
        fields |= {"quality": quality, "size": _size(width, height), "truncate": True}
        fields |= {"background": "transparent"} if transparent else {}
        with _told():
            asked = _valid(Generation, fields)
            job = Drawing.of(asked, self.server.models.able(asked.model, "generate"))
            return await self._pictures(context, job, job.finish)

    async def edit(
        self,
        context: Context,
        image: Picture,
        prompt: Prompt,
        mask: Annotated[
            str | None,
            Field(description="An image of the same size, white (or transparent) where it changes."),
        ] = None,
        box: Annotated[
            list[str], Field(description="Parts that change: left,top,right,bottom in pixels or per cent.")
        ] = [],  # noqa: B006  (never changed)
        n: Count = 1,
        seed: Seed = None,
        quality: Quality = "medium",
        model: str | None = None,
    ) -> Content:
        """Draw part of an image again; without mask and box parts at random of the whole image."""
        fields = _given(prompt=prompt, n=n, seed=seed, model=model) | {"quality": quality, "truncate": True}
        with _told():
            asked = _valid(Edit, fields | ({"box": tuple(box)} if box else {}))
            served = self.server.models.able(asked.model, "edit")
            picture = await self._read(image, "image")
            hole = None if mask is None else await self._read(mask, "mask")
            call = tasks.edit(asked, served, picture, hole)
            return await self._pictures(context, call, call.finish)

    async def describe(
        self,
        context: Context,
        image: Picture,
        n: Annotated[int, Field(ge=1, le=MOST, description="Captions.")] = 1,
        language: Literal["en", "zh"] = "en",
        model: str | None = None,
    ) -> str:
        """Describe an image: captions as JSON, the likeliest first."""
        with _told():
            asked = _valid(Captioning, _given(n=n, language=language, model=model))
            served = self.server.models.able(asked.model, "caption")
            picture = await self._read(image, "image")
            [captions] = await self._values(context, tasks.caption(asked, served, [picture]))
        return json.dumps([{"text": one.text, "score": one.score} for one in captions], ensure_ascii=False)

    async def rank(
        self,
        context: Context,
        prompt: Prompt,
        images: Annotated[list[Picture], Field(min_length=1, max_length=MOST_RANKED)],
        model: str | None = None,
    ) -> str:
        """Sort images by how well a sentence describes them: their numbers (from 0) and caption losses as
        JSON, the best first."""
        with _told():
            asked = _valid(Scoring, _given(model=model) | {"prompt": (prompt,)})
            served = self.server.models.able(asked.model, "score")
            pictures = [await self._read(one, "images") for one in images]
            losses = await self._values(context, tasks.score(asked, served, pictures))
        order = sorted(range(len(losses)), key=lambda number: losses[number][0])
        return json.dumps([{"image": number, "caption_loss": losses[number][0]} for number in order])

    async def _pictures(self, context: Context, job: Job, finish: Finish) -> Content:
        """Finished images, each with what made it."""
        found: Content = []
        for number, made in enumerate(await self._values(context, job)):
            picture = await run_in_threadpool(finish, made.picture)
            data = await run_in_threadpool(self.server.labelling.file, picture, "png", 0)
            told: dict[str, Any] = {
                "seed": picture.seed,
                "index": picture.index,
                "size": "{}x{}".format(*picture.image.size),
                "caption": picture.caption,
                "model": picture.model,
            }
            if self.folder is not None:
                told["file"] = str(self._save(data, picture.seed, number))
            found.append(ImageContent(data=base64_text(data), mime_type="image/png"))
            found.append(TextContent(text=json.dumps(told, ensure_ascii=False)))
        if finish.ignored:
            found.append(TextContent(text=f"ignored: {', '.join(finish.ignored)}"))
        return found

    async def _values(self, context: Context, job: Job) -> list[Any]:
        """The results of a job; its progress is reported while it is computed."""
        ticket = self.server.worker.submit(job)
        reports = asyncio.create_task(_report(context, ticket))
        try:
            async with contextlib.aclosing(ticket.events()) as coming:
                found = [event async for event in coming]
        finally:
            reports.cancel()
        made = [event for event in found if isinstance(event, Made)]
        return sorted(made, key=lambda event: event.number) or found

    async def _read(self, text: str, field: str) -> Image.Image:
        """An image from a message, or from the folder."""
        name = Path(text) if len(text) < 256 else None
        if self.folder is not None and name is not None and name.suffix:
            place = (self.folder / name).resolve()
            if not place.is_relative_to(self.folder.resolve()):
                raise ApiError(400, f"{field}: {text} is outside of the folder", param=field)
            try:
                data = await run_in_threadpool(read_bytes, place, self.server.rules.max_upload)
            except CogViewError as error:
                message = str(error).replace(str(place), text)
                raise ApiError(400, f"{field}: {message}", code="bad_image", param=field) from None
            return await run_in_threadpool(opened, data, field)
        return await run_in_threadpool(opened, file_of(text, field), field)

    def _save(self, data: bytes, seed: int, number: int) -> Path:
        """A file with a name that nothing has."""
        assert self.folder is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        stem, times = f"{seed}-{number}", 0
        while (path := self.folder / (f"{stem}-{times}.png" if times else f"{stem}.png")).exists():
            times += 1
        write_file(path, data)
        return path


def mcp_server(tools: Tools) -> MCPServer[Any]:
    """The tools as a server of the official SDK."""
    server: MCPServer[Any] = MCPServer(
        "cogview", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )
    for name, function, hints in (
        ("generate_image", tools.generate, DRAWS),
        ("edit_image", tools.edit, DRAWS),
        ("describe_image", tools.describe, LOOKS),
        ("rank_images", tools.rank, LOOKS),
    ):
        server.add_tool(function, name=name, annotations=hints, structured_output=False)
    return server


async def _report(context: Context, ticket: Ticket) -> None:
    """Progress now and then, for clients that ask for it."""
    while True:
        await context.report_progress(ticket.progress, 1.0)
        await asyncio.sleep(REPORT_SECONDS)


def _valid(kind: type[M], fields: dict[str, Any]) -> M:
    """A request as over HTTP; ApiError for what is wrong in it."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise refusal(error, kind) from None


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _size(width: int | None, height: int | None) -> str:
    sides = [side for side in (width, height) if side is not None]
    return f"{sides[0]}x{sides[-1]}" if sides else "auto"


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Refusals as errors of the tool, which the agent reads."""
    try:
        yield
    except ApiError as error:
        raise ToolError(error.message) from None
