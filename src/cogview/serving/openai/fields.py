"""Fields of OpenAI's Images API, as its client library documents them.

Fields with an equivalent here are mapped to it; the others are accepted, and responses list them as ignored.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Quality = Literal["low", "medium", "high", "xhigh", "max", "auto", "standard", "hd"]
ReportedQuality = Literal["low", "medium", "high", "xhigh", "max"]
_REPORTED: dict[Quality, ReportedQuality] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
    "auto": "medium",
    "standard": "medium",
    "hd": "high",
}
CANDIDATES: dict[ReportedQuality, int] = {"low": 1, "medium": 1, "high": 4, "xhigh": 6, "max": 6}
OPENAI_STYLES = ("vivid", "natural")
EDIT_MASK_RATIOS = {"low": 0.8, "high": 0.5}  # share of an image that an edit without a mask regenerates
UNUSED = ("moderation", "complexity", "frame_count", "frame_duration_ms", "svg")
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def reported_quality(quality: Quality) -> ReportedQuality:
    """The quality as reported in responses."""
    return _REPORTED[quality]


class SvgReasoning(BaseModel):
    """Reasoning effort of a model that writes SVG."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    effort: Effort | None = None


class Svg(BaseModel):
    """The model that writes an SVG; this server has no SVG output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, max_length=200)
    reasoning: SvgReasoning | None = None


class OpenAIFields(BaseModel):
    """Fields that generations and edits share.

    Attributes:
        quality: how much is computed: ``low`` the first stage only, ``high`` (``hd``) the best of 4,
            ``xhigh`` and ``max`` the best of 6 at the largest size.
        background: ``transparent`` removes the background of images where it is uniform.
        size: ``WIDTHxHEIGHT``, or ``auto`` for the model's default.
    """

    quality: Quality = "auto"
    background: Literal["transparent", "opaque", "auto"] = "auto"
    size: str = Field("auto", max_length=20)
    stream: bool = False
    partial_images: int = Field(0, ge=0, le=3)
    safety_identifier: str | None = Field(None, max_length=200, description="Sent back as it is.")
    moderation: Literal["low", "auto"] | None = Field(None, description="Ignored: nothing is filtered.")
    complexity: Literal["low", "medium", "high"] | None = Field(None, description="Ignored.")
    frame_count: int | None = Field(None, ge=2, le=16, description="Ignored.")
    frame_duration_ms: int | None = Field(None, ge=0, le=655_350, description="Ignored.")
    svg: Svg | None = Field(None, description="Ignored.")

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, data: Any) -> Any:
        """Treat fields that are null as absent."""
        return (
            {name: value for name, value in data.items() if value is not None}
            if isinstance(data, dict)
            else data
        )
