"""Converts A1111's requests to jobs of the worker, and describes results in A1111's format."""

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
from cogview.serving.generation_job import GenerationJob
from cogview.serving.openai.sizes import parse_size
from cogview.serving.pictures import decode_upload
from cogview.serving.schema import Edit, Generation, Variation
from cogview.serving.served import Models, ServedModel
from cogview.serving.tasks import TaskJob
from cogview.types import SamplingParams

DEFAULT_CFG_SCALE = 7.0  # A1111's default; it is mapped to the model's default guidance scale
PARTIAL_IMAGES = 3
MASK_THRESHOLD = 128  # mask values from this one on are edited
UNREPORTED = frozenset(  # unknown fields that are not reported as ignored
    {"alwayson_scripts", "sampler_index", "save_images", "do_not_save_samples", "do_not_save_grid"}
)


def title(served: ServedModel) -> str:
    """A model's name as A1111 shows it."""
    return f"{served.name} [{served.cogview.model_hash[:10]}]"


def find(models: Models, name: str | None, ability: str) -> ServedModel:
    """A model by its name or title; raises ApiError if it is not served or lacks the ability."""
    name = None if name is None else name.partition(" [")[0]
    return models.with_ability(name, ability)


def seed_of(request: TextToImage) -> int:
    """The seed of the first image; a random one for -1."""
    return secrets.randbits(32) if request.seed == -1 else request.seed


def guidance(request: TextToImage, served: ServedModel, style: str | None) -> float | None:
    """``cfg_scale`` as the model's guidance scale: linear, 1 to 1 and 7 (A1111's default) to the default."""
    if "cfg_scale" not in request.model_fields_set:
        return None
    default = served.cogview.bundle.config.sampling("generate", SamplingParams(), style).guidance_scale
    return 1 + (max(1.0, request.cfg_scale) - 1) * (default - 1) / (DEFAULT_CFG_SCALE - 1)


def style_of(request: TextToImage, served: ServedModel) -> str | None:
    """The first of the request's styles that the model has."""
    return next((name for name in request.styles if name in served.cogview.styles), None)


def text_to_image(request: TextToImage, served: ServedModel) -> GenerationJob:
    """The job of a txt2img request; image i has the seed ``seed + i``, as in A1111."""
    style, seed = style_of(request, served), seed_of(request)
    width, height = request.size
    generation = Generation(
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
    job = GenerationJob.of(generation, served)
    requests = [dataclasses.replace(job.requests[0], seed=seed + number) for number in range(request.n)]
    return dataclasses.replace(job, requests=requests, n=request.n, partials=PARTIAL_IMAGES)


def edit(request: ImageToImage, served: ServedModel) -> TaskJob:
    """The job of an img2img request: regenerate the masked part or, without a mask, a random share.

    The share is ``denoising_strength``.
    """
    image = decode_base64(request.init_images[0], "init_images")
    style = style_of(request, served)
    size_given = {"width", "height"} & request.model_fields_set
    width, height = request.size if size_given or request.enable_hr else image.size
    if (width, height) != image.size:
        parse_size(f"{width}x{height}")  # raises ApiError if it is out of range
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
    body = Edit.model_validate(common | {"crop": crop, "feather": request.mask_blur})
    mask = binary_mask(decode_base64(request.mask, "mask"), request.inpainting_mask_invert).resize(image.size)
    return tasks.edit(body, served, image, mask, ignored)


def binary_mask(mask: Image.Image, invert: bool) -> Image.Image:
    """White where the image is regenerated: by the mask's alpha if it varies, else by its brightness."""
    grey = mask.convert("L")
    if mask.mode == "RGBA" and mask.getchannel("A").getextrema() != (255, 255):
        grey = mask.getchannel("A")
    binary = Image.fromarray(np.where(np.asarray(grey) >= MASK_THRESHOLD, 255, 0).astype(np.uint8))
    return ImageOps.invert(binary) if invert else binary


def decode_base64(text: str, field: str) -> Image.Image:
    """An image from base64, optionally as a data URL; raises ApiError for anything else."""
    return decode_upload(file_bytes(text, field), field)


def file_bytes(text: str, field: str) -> bytes:
    """A file's content from base64, optionally as a data URL; raises ApiError if it is not base64."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, f"{field} is not base64", code="bad_image", param=field) from None


def parameters(request: TextToImage) -> dict[str, Any]:
    """The request without its images, as sent back in the response; values that JSON lacks become null."""
    fields: dict[str, Any] = json.loads(request.model_dump_json(exclude={"init_images", "mask"}))
    return fields


def info(
    request: TextToImage, served: ServedModel, images: Sequence[GeneratedImage], ignored: Sequence[str]
) -> str:
    """A1111's description of images, as JSON text."""
    seeds = [image.seed for image in images]
    settings = images[0].settings if images else {}
    size = images[0].image.size if images else request.size
    extra = [name for name in (request.model_extra or {}) if name not in UNREPORTED]
    unused = [name for name in ("steps", "sampler_name", "scheduler") if name in request.model_fields_set]
    fields = {
        "prompt": request.prompt,
        "all_prompts": [image.caption for image in images],
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * len(images),
        "seed": seeds[0] if seeds else request.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [image.index for image in images],
        "width": size[0],
        "height": size[1],
        "sampler_name": request.sampler_name,
        "cfg_scale": request.cfg_scale,
        "steps": request.steps,
        "batch_size": request.batch_size,
        "sd_model_name": served.name,
        "sd_model_hash": served.cogview.model_hash[:10],
        "infotexts": [_infotext(request, served, image) for image in images],
        "index_of_first_image": 0,
        "job_timestamp": "0",
        "version": settings.get("software", "cogview"),
        "cogview": {"settings": settings, "ignored": [*ignored, *unused, *extra]},
    }
    return json.dumps(fields, ensure_ascii=False)


def _infotext(request: TextToImage, served: ServedModel, generated: GeneratedImage) -> str:
    width, height = generated.image.size
    facts = (
        f"Steps: {request.steps}, Sampler: {request.sampler_name}, CFG scale: {request.cfg_scale:g}, "
        f"Seed: {generated.seed}, Size: {width}x{height}, Model hash: {served.cogview.model_hash[:10]}, "
        f"Model: {served.name}"
    )
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    return f"{generated.caption}{negative}\n{facts}"
