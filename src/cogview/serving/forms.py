"""Parsing of forms with images (multipart/form-data), within limits."""

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
from cogview.serving.schema import validation_error

MAX_FIELDS = 64
READ_SECONDS = 60.0
MAX_FIELD = 128 << 10  # bytes; enough for a prompt of 32,000 characters
_NESTED = re.compile(r"(\w+)(\[\w+\]){1,2}")  # a nested field in a form, such as svg[model]
M = TypeVar("M", bound=BaseModel)
Files = dict[str, list[bytes]]


@contextlib.asynccontextmanager
async def body_timeout() -> AsyncIterator[None]:
    """Raises ApiError 408 if the body does not arrive in time."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            yield
    except TimeoutError:
        message = f"the request did not arrive within {READ_SECONDS:g} s"
        raise ApiError(408, message, code="slow") from None


async def read_form(request: Request, kind: type[M], **files: int) -> tuple[M, Files]:
    """The fields of a form, validated, and its files by name.

    files: maximum number of files by name. A field ``name[]`` is read as ``name``; clients use it for lists.

    Raises:
        ApiError: not a form, too many files, or an invalid field.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "multipart/form-data":
        raise ApiError(415, "send a form, with Content-Type: multipart/form-data", code="not_a_form")
    try:
        limit = sum(files.values())
        async with body_timeout():
            form = await request.form(max_files=limit, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD)
    except HTTPException as error:
        raise ApiError(400, str(error.detail), code="not_a_form") from None
    values: dict[str, Any] = {}
    uploads: Files = {name: [] for name in files}
    try:
        for name, value in form.multi_items():
            await _add_part(name.removesuffix("[]"), value, kind, values, uploads)
    finally:
        await form.close()
    for name, limit in files.items():
        if len(uploads[name]) > limit:
            raise ApiError(400, f"at most {limit} of {name}", code="too_many", param=name)
    try:
        return kind.model_validate(values), uploads
    except ValidationError as error:
        raise validation_error(error, kind) from None


async def _add_part(
    name: str, value: str | UploadFile, kind: type[BaseModel], values: dict[str, Any], uploads: Files
) -> None:
    """Add one part of a form to ``uploads`` or ``values``; fields of tuple type may be repeated."""
    if name in uploads:
        if isinstance(value, str):
            raise ApiError(400, f"{name} has to be a file", code="invalid_value", param=name)
        uploads[name].append(await value.read())
    elif isinstance(value, str) and (nested := _NESTED.fullmatch(name)) and nested[1] in kind.model_fields:
        _set_nested(values, nested[0].replace("]", "").split("["), value)
    elif not isinstance(value, str):
        raise ApiError(400, f"{name!r} is not a file field", code="unknown_parameter", param=name)
    elif name in kind.model_fields and get_origin(kind.model_fields[name].annotation) is tuple:
        values.setdefault(name, []).append(value)
    elif name in values:
        raise ApiError(400, f"{name} is given twice", code="invalid_value", param=name)
    else:
        values[name] = value


def _set_nested(values: dict[str, Any], path: list[str], value: str) -> None:
    """Set a value inside nested dictionaries."""
    *outer, last = path
    for name in outer:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ApiError(400, f"{outer[0]} is given twice", code="invalid_value", param=outer[0])
        values = inner
    values[last] = value
