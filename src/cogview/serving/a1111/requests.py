"""Request schemas of A1111's API. Its clients send fields of many versions, so unknown fields are accepted
and reported as ignored."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cogview.serving.schema import MAX_IMAGES, MAX_TEXT
from cogview.types import MAX_SEED

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(max_length=200)]
MAX_STATED = 10**6  # for numbers that are only sent back


class _Request(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_none(cls, data: Any) -> Any:
        return {k: v for k, v in data.items() if v is not None} if isinstance(data, dict) else data


class TextToImage(_Request):
    """POST /sdapi/v1/txt2img."""

    prompt: Text = ""
    negative_prompt: Text = ""
    styles: tuple[Name, ...] = Field((), max_length=4)
    seed: int = Field(-1, ge=-1, le=MAX_SEED - MAX_IMAGES)
    width: int = Field(512, ge=1, le=10**5)
    height: int = Field(512, ge=1, le=10**5)
    cfg_scale: float = Field(7.0, ge=0, le=100)
    steps: int = Field(20, ge=0, le=MAX_STATED)
    sampler_name: Name = "Autoregressive"
    scheduler: Name = "Automatic"
    batch_size: int = Field(1, ge=1, le=MAX_IMAGES)
    n_iter: int = Field(1, ge=1, le=MAX_IMAGES)
    enable_hr: bool = False
    hr_scale: float = Field(2.0, ge=0, le=16)
    send_images: bool = True
    override_settings: dict[str, Any] = Field(default_factory=dict)

    @field_validator("styles", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @property
    def n(self) -> int:
        """Number of images."""
        return self.batch_size * self.n_iter

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the result."""
        times = self.hr_scale or 1 if self.enable_hr else 1
        return round(self.width * times), round(self.height * times)

    @property
    def checkpoint(self) -> str | None:
        """The model for this request only, if it names one."""
        name = self.override_settings.get("sd_model_checkpoint")
        return name if isinstance(name, str) else None


class ImageToImage(TextToImage):
    """POST /sdapi/v1/img2img. Images are base64, optionally as data URLs."""

    init_images: tuple[str, ...] = Field(min_length=1, max_length=16)
    mask: str | None = None
    denoising_strength: float = Field(0.75, ge=0, le=1)
    mask_blur: int = Field(4, ge=0, le=256)
    inpainting_mask_invert: bool = False
    inpaint_full_res: bool | None = None


class Options(_Request):
    """POST /sdapi/v1/options."""

    sd_model_checkpoint: Name | None = None


class Extra(_Request):
    """POST /sdapi/v1/extra-single-image."""

    image: str
    upscaling_resize: float = Field(2.0, ge=1, le=8)
    upscaler_1: Name = "None"


class OneImage(_Request):
    """POST /sdapi/v1/png-info and /sdapi/v1/interrogate."""

    image: str
