"""Request schemas. Unknown fields are errors.

``Generation``, ``Prompt`` and ``NewTraining`` are sent as JSON, the others as forms with an image. Fields of
OpenAI's API keep their names and meaning; additional fields (``seed``, ``best_of``, sampling parameters) have
the names of the command-line options.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cogview.serving.api_errors import ApiError
from cogview.serving.openai.fields import OPENAI_STYLES, UNUSED, OpenAIFields
from cogview.types import DETAIL, MAX_SEED, SamplingParams

MAX_IMAGES = 10  # per request, as in OpenAI's API
MAX_CANDIDATES = 64  # images generated for a request: n times best_of
MAX_TEXT = 32_000  # characters of a prompt, as in OpenAI's API; the model's limit, in tokens, is lower
MAX_BOXES = 32
Box = Annotated[str, Field(max_length=100)]
TRAINING_NAME = "[a-z0-9][a-z0-9-]{0,39}"
SAMPLING = ("temperature", "top_k", "top_p", "guidance", "clusters", "emphasis")


class _Request(BaseModel):
    """Fields of every request."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str | None = Field(None, max_length=200, description="The model; default: the first served.")
    user: str | None = Field(None, max_length=200, description="Sent back as safety_identifier.")


class _SamplingRequest(_Request):
    """Sampling parameters; None selects the model's default."""

    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    temperature: float | None = Field(None, gt=0, le=100)
    top_k: int | None = Field(None, ge=0)
    top_p: float | None = Field(None, ge=0, le=1)
    guidance: float | None = Field(None, ge=0, le=100)
    clusters: int | None = Field(None, ge=0)
    emphasis: float | None = Field(None, ge=-100, le=100)

    @property
    def params(self) -> SamplingParams:
        """The sampling parameters that the request sets."""
        return SamplingParams.given(**{name: getattr(self, name) for name in SAMPLING})


class Output(_SamplingRequest):
    """Requests whose response contains images."""

    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(95, ge=0, le=100, description="Quality of jpeg and webp.")


class PromptedRequest(Output, OpenAIFields):
    """Requests with a prompt: generations, edits and variations.

    Attributes:
        truncate: truncate a prompt that is too long for the model; the default is to do so for OpenAI's model
            names, whose clients send long prompts.
    """

    n: int = Field(1, ge=1, le=MAX_IMAGES)
    style: str | None = Field(None, max_length=200)
    negative_prompt: str | None = Field(None, max_length=MAX_TEXT)
    best_of: int | None = Field(None, ge=1, le=MAX_CANDIDATES, description="Default: set by quality.")
    truncate: bool | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.n * (self.best_of or 1) > MAX_CANDIDATES:
            raise ValueError(
                f"n times best_of is {self.n * (self.best_of or 1)}; at most {MAX_CANDIDATES} are generated"
            )
        if self.partial_images and not self.stream:
            raise ValueError("partial_images needs stream")
        if self.background == "transparent" and self.output_format == "jpeg":
            raise ValueError("jpeg has no transparency; use png or webp for a transparent background")
        return self

    @property
    def identifier(self) -> str | None:
        """The end user's identifier, as sent by the client."""
        return self.safety_identifier or self.user or None

    def effective_style(self, styles: Collection[str]) -> str | None:
        """The style; None if it is one of OpenAI's styles that the model does not have."""
        return None if self.style in OPENAI_STYLES and self.style not in styles else self.style

    def ignored_fields(self, styles: Collection[str]) -> list[str]:
        """Fields of the request that have no effect."""
        names = [name for name in UNUSED if name in self.model_fields_set]
        return names + (["style"] if self.effective_style(styles) != self.style else [])


class Generation(PromptedRequest):
    """POST /v1/images/generations."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    prompt: str = Field(max_length=MAX_TEXT)
    first: int = Field(
        0, ge=0, le=MAX_SEED - MAX_CANDIDATES, description="Index of the first image within the seed."
    )


class Edit(PromptedRequest):
    """POST /v1/images/edits: a form with ``image`` and optionally ``mask``.

    Attributes:
        input_fidelity: how much of the image is kept, in an edit without mask and box.
    """

    prompt: str = Field(max_length=MAX_TEXT)
    input_fidelity: Literal["high", "low"] = "low"
    box: tuple[Box, ...] = Field((), max_length=MAX_BOXES)
    order: Literal["together", "one_by_one"] = "together"
    crop: Literal["auto", "whole", "tight"] = "auto"
    feather: int = Field(4, ge=0, le=256)
    first_stage_only: bool = False


class Variation(PromptedRequest):
    """POST /v1/images/variations: a form with ``image``."""

    prompt: str = Field("", max_length=MAX_TEXT)
    share: float = Field(0.5, gt=0, le=1)
    first_stage_only: bool = False


class Prompt(_Request):
    """POST /v1/prompts."""

    prompt: str = Field(max_length=4000)


class CutOut(_Request):
    """POST /v1/images/cutouts: a form with ``image``."""


class Upscaling(Output):
    """POST /v1/images/upscales: a form with ``image``."""

    prompt: str | None = Field(None, max_length=MAX_TEXT)
    times: int = Field(2, ge=2, le=4)
    faithful: bool = True
    detail: float = Field(DETAIL, ge=0, le=1)


class Captioning(_SamplingRequest):
    """POST /v1/captions: a form with one or more ``image`` fields."""

    n: int = Field(1, ge=1, le=MAX_IMAGES)
    language: Literal["zh", "en"] | None = None
    beams: int | None = Field(None, ge=1, le=16)
    max_length: int | None = Field(None, ge=1)


class Scoring(_Request):
    """POST /v1/scores: a form with one or more ``image`` and ``prompt`` fields.

    Attributes:
        compare: report for each score the share of 60 other sentences that it is better than.
    """

    compare: bool = False
    prompt: tuple[Annotated[str, Field(max_length=MAX_TEXT)], ...] = Field(min_length=1, max_length=16)


class NewTraining(BaseModel):
    """POST /v1/trainings.

    Attributes:
        start: name of a served model to start from; lora: train only an adapter of this rank on top of it;
            image_tokenizer_steps, transformer_steps: override the defaults, which depend on the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(pattern=rf"^{TRAINING_NAME}$")
    size: Literal["tiny", "small", "base", "large"] = "small"
    start: str | None = Field(None, max_length=200)
    lora: int | None = Field(None, ge=1, le=256)
    image_tokenizer_steps: int | None = Field(None, ge=1, le=10_000_000)
    transformer_steps: int | None = Field(None, ge=1, le=10_000_000)

    @model_validator(mode="after")
    def _adapter_of_something(self) -> Self:
        if self.lora is not None and self.start is None:
            raise ValueError("lora adapts an existing model; name it in start")
        return self


def validation_error(error: ValidationError, kind: type[BaseModel]) -> ApiError:
    """The first of pydantic's errors as an ApiError that names its field."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, kind.model_fields, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return ApiError(400, f"unknown field {name!r}{hint}", code="unknown_parameter", param=name)
    if first["type"] == "missing":
        return ApiError(400, f"the field {name!r} is missing", code="missing_parameter", param=name)
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON ({first['ctx']['error']})", code="not_json")
    message = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{name}: {message}" if name else message, code="invalid_value", param=name or None)
