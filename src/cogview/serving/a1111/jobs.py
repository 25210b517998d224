"""A1111's requests as jobs of the worker, and what their answers tell of them."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from cogview.pipelines.base import GeneratedImage
from cogview.serving import tasks
from cogview.serving.a1111.requests import ImageToImage, TextToImage
from cogview.serving.api_errors import ApiError
from cogview.serving.drawing import Drawing
from cogview.serving.openai.sizes import parse
from cogview.serving.pictures import opened
from cogview.serving.schema import Edit, Generation, Variation
from cogview.serving.served import Models, Served
from cogview.serving.tasks import Call
from cogview.types import SamplingParams

USUAL = 7.0  # A1111's default cfg_scale, which stands for the model's own guidance
PARTIALS = 3
SEEN = 128  # from which on a mask is open
USED = frozenset(
    {"alwayson_scripts", "sampler_index", "save_images", "do_not_save_samples", "do_not_save_grid"}
)


def title(served: Served) -> str:
    """A model's name as A1111 shows it."""
    return f"{served.name} [{served.cogview.model_hash[:10]}]"


def find(models: Models, name: str | None, ability: str) -> Served:
    """A model by its name or its title; ApiError where it is not served or cannot."""
    name = None if name is None else name.partition(" [")[0]
    return models.able(name, ability)


def seed_of(request: TextToImage) -> int:
    """The seed of the first image; a new one for -1."""
    return secrets.randbits(32) if request.seed == -1 else request.seed


def guidance(request: TextToImage, served: Served, style: str | None) -> float | None:
    """A ``cfg_scale`` on the model's own scale: 1 stays 1, A1111's default of 7 is the model's default."""
    if "cfg_scale" not in request.model_fields_set:
        return None
    own = served.cogview.bundle.config.sampling("generate", SamplingParams(), style).guidance_scale
    return 1 + (max(1.0, request.cfg_scale) - 1) * (own - 1) / (USUAL - 1)


def style_of(request: TextToImage, served: Served) -> str | None:
    """The first of its styles that the model has."""
    return next((name for name in request.styles if name in served.cogview.styles), None)


def drawing(request: TextToImage, served: Served) -> Drawing:
    """The drawing; image i has the seed ``seed + i``, as in A1111."""
    style, seed = style_of(request, served), seed_of(request)
    width, height = request.size
    asked = Generation(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt or None,
        seed=seed,
        style=style,
        size=f"{width}x{height}",
        guidance=guidance(request, served, style),
        quality="max" if request.enable_hr else "auto",
        best_of=1,
        truncate=True,
    )
    one = Drawing.of(asked, served)
    wanted = [dataclasses.replace(one.wanted[0], seed=seed + number) for number in range(request.n)]
    return dataclasses.replace(one, wanted=wanted, n=request.n, partials=PARTIALS)


def edit(request: ImageToImage, served: Served) -> Call:
    """The masked part, or without a mask as much as ``denoising_strength`` says, drawn again."""
    image = decoded(request.init_images[0], "init_images")
    style = style_of(request, served)
    given = {"width", "height"} & request.model_fields_set
    width, height = request.size if given or request.enable_hr else image.size
    if (width, height) != image.size:
        parse(f"{width}x{height}")
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    common: dict[str, Any] = {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt or None,
        "seed": seed_of(request),
        "n": request.n,
        "style": style,
        "guidance": guidance(request, served, style),
        "best_of": 1,
        "truncate": True,
    }
    ignored = ["init_images (all but the first)"] if len(request.init_images) > 1 else []
    if request.mask is None:
        share = max(0.05, request.denoising_strength)
        return tasks.vary(Variation.model_validate(common | {"share": share}), served, image, ignored)
    crop = {None: "auto", True: "tight", False: "whole"}[request.inpaint_full_res]
    asked = Edit.model_validate(common | {"crop": crop, "feather": request.mask_blur})
    mask = open_part(decoded(request.mask, "mask"), request.inpainting_mask_invert).resize(image.size)
    return tasks.edit(asked, served, image, mask, ignored)


def open_part(mask: Image.Image, invert: bool) -> Image.Image:
    """White where the image is drawn again: by a mask's opacity where it varies, else by its brightness."""
    grey = mask.convert("L")
    if mask.mode == "RGBA" and mask.getchannel("A").getextrema() != (255, 255):
        grey = mask.getchannel("A")
    chosen = Image.fromarray(np.where(np.asarray(grey) >= SEEN, 255, 0).astype(np.uint8))
    return ImageOps.invert(chosen) if invert else chosen


def decoded(text: str, field: str) -> Image.Image:
    """An image from base64, perhaps as a data URL; ApiError for anything else."""
    return opened(file_of(text, field), field)


def file_of(text: str, field: str) -> bytes:
    """The bytes of a file from base64, perhaps as a data URL."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{field} is not base64", code="bad_image", param=field) from None


def sent_back(request: TextToImage) -> dict[str, Any]:
    """The request without its images, for the answer; what JSON cannot hold is null."""
    found: dict[str, Any] = json.loads(request.model_dump_json(exclude={"init_images", "mask"}))
    return found


def info(
    request: TextToImage, served: Served, pictures: Sequence[GeneratedImage], ignored: Sequence[str]
) -> str:
    """A1111's description of images, as JSON text."""
    seeds = [picture.seed for picture in pictures]
    settings = pictures[0].settings if pictures else {}
    size = pictures[0].image.size if pictures else request.size
    extra = [name for name in (request.model_extra or {}) if name not in USED]
    unused = [name for name in ("steps", "sampler_name", "scheduler") if name in request.model_fields_set]
    told = {
        "prompt": request.prompt,
        "all_prompts": [picture.caption for picture in pictures],
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * len(pictures),
        "seed": seeds[0] if seeds else request.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [picture.index for picture in pictures],
        "width": size[0],
        "height": size[1],
        "sampler_name": request.sampler_name,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "sd_model_name": served.name,
        "sd_model_hash": served.cogview.model_hash[:10],
        "infotexts": [_infotext(request, served, picture) for picture in pictures],
        "index_of_first_image": 0,
        "job_timestamp": "0",
        "version": settings.get("software", "cogview"),
        "cogview": {"settings": settings, "ignored": [*ignored, *unused, *extra]},
    }
    return json.dumps(told, ensure_ascii=False)


def _infotext(request: TextToImage, served: Served, picture: GeneratedImage) -> str:
    width, height = picture.image.size
    facts = (
        f"Steps: {request.steps}, Sampler: {request.sampler_name}, CFG scale: {request.cfg_scale:g}, "
        f"Seed: {picture.seed}, Size: {width}x{height}, Model hash: {served.cogview.model_hash[:10]}, "
        f"Model: {served.name}"
    )
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return f"{picture.caption}{negative}\n{facts}"
