"""Forms with images in them (multipart/form-data), read within limits."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from cogview.serving.api_errors import ApiError
from cogview.serving.schema import refusal

MAX_FIELDS = 64
READ_SECONDS = 60.0
MAX_FIELD = 128 << 10  # bytes; a prompt of 32,000 characters
_NESTED = re.compile(r"(\w+)(\[\w+\]){1,2}")  # a field of an object, as clients send it in a form
M = TypeVar("M", bound=BaseModel)
Files = dict[str, list[bytes]]


@contextlib.asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """ApiError 408 for a body that takes too long to come."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError:
        message = f"the request did not come within {READ_SECONDS:g} s"
        raise ApiError(408, message, code="slow") from None


async def read_form(request: Request, kind: type[M], **files: int) -> tuple[M, Files]:
    """The fields of a form, and its files by name, at most a number of each; ApiError for anything else.

    ``name[]`` is ``name``, as clients of lists send it.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "multipart/form-data":
        raise ApiError(415, "send a form, with Content-Type: multipart/form-data", code="not_a_form")
    try:
        most = sum(files.values())
        async with in_time():
            form = await request.form(max_files=most, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD)
    except HTTPException as error:
        raise ApiError(400, str(error.detail), code="not_a_form") from None
    values: dict[str, Any] = {}
    found: Files = {name: [] for name in files}
    try:
        for name, value in form.multi_items():
            await _take(name.removesuffix("[]"), value, kind, values, found)
    finally:
        await form.close()
    for name, most in files.items():
        if len(found[name]) > most:
            raise ApiError(400, f"at most {most} of {name}", code="too_many", param=name)
    try:
        return kind.model_validate(values), found
    except ValidationError as error:
        raise refusal(error, kind) from None


async def _take(
    name: str, value: str | UploadFile, kind: type[BaseModel], values: dict[str, Any], found: Files
) -> None:
    """One part of a form: a file where files are expected, else a field, which may come again in lists."""
    if name in found:
        if isinstance(value, str):
            raise ApiError(400, f"{name} has to be a file", code="invalid_value", param=name)
        found[name].append(await value.read())
    elif (
        isinstance(value, str)
        and (found_path := _NESTED.fullmatch(name))
        and found_path[1] in kind.model_fields
    ):
        _put(values, found_path[0].replace("]", "").split("["), value)
    elif not isinstance(value, str):
        raise ApiError(400, f"no file is expected as {name!r}", code="unknown_parameter", param=name)
    elif name in kind.model_fields and get_origin(kind.model_fields[name].annotation) is tuple:
        values.setdefault(name, []).append(value)
    elif name in values:
        raise ApiError(400, f"{name} is there twice", code="invalid_value", param=name)
    else:
        values[name] = value


def _put(values: dict[str, Any], path: list[str], value: str) -> None:
    """A value inside objects."""
    *outer, last = path
    for name in outer:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ApiError(400, f"{outer[0]} is there twice", code="invalid_value", param=outer[0])
        values = inner
    values[last] = value
