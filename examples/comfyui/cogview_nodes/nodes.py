"""The nodes. Images are float32 (batch, height, width, 3) in [0, 1], masks (batch, height, width)."""

from __future__ import annotations

import base64
import io
import json
import os
import urllib.error
import urllib.request
import uuid
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CATEGORY = "cogview"
SECONDS = 600  # until a request is given up
MOST = 10  # images of one request
SERVER = ("STRING", {"default": "http://127.0.0.1:8000"})
PROMPT = ("STRING", {"default": "a red apple", "multiline": True})
SEED = ("INT", {"default": 0, "min": 0, "max": 2**53 - 1, "control_after_generate": True})
COUNT = ("INT", {"default": 1, "min": 1, "max": MOST})
MODEL = ("STRING", {"default": "", "tooltip": "A model of the server; empty: its default."})
STYLE = ("STRING", {"default": "", "tooltip": "A style of the model; empty: none."})
Fields = dict[str, Any]


def ask(server: str, path: str, fields: Fields, files: dict[str, bytes] | None = None) -> Any:
    """The server's answer; a RuntimeError with its own words where it refuses, or cannot be reached."""
    given = {name: value for name, value in fields.items() if value not in ("", None)}
    if files is None:
        body, media = json.dumps(given).encode(), "application/json"
    else:
        body, media = _form(given, files)
    headers = {"Content-Type": media}
    if key := os.environ.get("COGVIEW_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(server.rstrip("/") + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"cogview: {_told(error)}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise RuntimeError(f"cogview: no answer from {server} ({reason}); start it: cogview serve") from None


def _told(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code}"


def _form(fields: Fields, files: dict[str, bytes]) -> tuple[bytes, str]:
    border, parts = uuid.uuid4().hex, []
    for name, value in fields.items():
        head = f'Content-Disposition: form-data; name="{name}"'
        parts.append(f"--{border}\r\n{head}\r\n\r\n{value}\r\n".encode())
    for name, data in files.items():
        head = (
            f'Content-Disposition: form-data; name="{name}"; filename="{name}.png"\r\nContent-Type: image/png'
        )
        parts.append(f"--{border}\r\n{head}\r\n\r\n".encode() + data + b"\r\n")
    return b"".join(parts) + f"--{border}--\r\n".encode(), f"multipart/form-data; boundary={border}"


def images_of(answer: Any) -> Tensor:
    """The images of an answer, (n, height, width, 3)."""
    found = [
        Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).convert("RGB") for one in answer["data"]
    ]
    return torch.from_numpy(np.stack([np.asarray(one, np.float32) / 255 for one in found]))


def png(pixels: Tensor) -> bytes:
    """A picture (height, width, 3 or 4) as a file."""
    file = io.BytesIO()
    Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().cpu().numpy()).save(file, "PNG")
    return file.getvalue()


def open_where(mask: Tensor, size: tuple[int, int]) -> bytes:
    """A mask file, transparent where ComfyUI's ``mask`` (height, width) is 1; size: (height, width)."""
    whole = torch.nn.functional.interpolate(mask[None, None].float(), size, mode="nearest")[0, 0]
    return png(torch.cat([torch.zeros(*size, 3), 1 - whole[..., None]], -1))


class CogViewGenerate:
    """Images for a sentence, Chinese or English."""

    RETURN_TYPES: ClassVar = ("IMAGE",)
    FUNCTION: ClassVar = "generate"
    CATEGORY: ClassVar = CATEGORY
    DESCRIPTION: ClassVar = "Images for a sentence, Chinese or English, by a cogview server."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Fields]:
        """What ComfyUI offers."""
        return {
            "required": {"prompt": PROMPT, "seed": SEED, "n": COUNT, "server": SERVER},
            "optional": {
                "negative_prompt": ("STRING", {"default": "", "multiline": True}),
                "size": ("STRING", {"default": "auto", "tooltip": "auto, or WIDTHxHEIGHT in pixels."}),
                "quality": (["auto", "low", "medium", "high"], {"default": "auto"}),
                "style": STYLE,
                "model": MODEL,
            },
        }

    def generate(self, prompt: str, seed: int, n: int, server: str, **more: str) -> tuple[Tensor]:
        """(n, height, width, 3)."""
        return (
            images_of(
                ask(server, "/v1/images/generations", {"prompt": prompt, "seed": seed, "n": n, **more})
            ),
        )


class CogViewEdit:
    """The masked part of an image, anew by a sentence."""

    RETURN_TYPES: ClassVar = ("IMAGE",)
    FUNCTION: ClassVar = "edit"
    CATEGORY: ClassVar = CATEGORY
    DESCRIPTION: ClassVar = "The masked part of an image generated anew; without a mask parts at random."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Fields]:
        """What ComfyUI offers."""
        return {
            "required": {"image": ("IMAGE",), "prompt": PROMPT, "seed": SEED, "n": COUNT, "server": SERVER},
            "optional": {"mask": ("MASK",), "style": STYLE, "model": MODEL},
        }

    def edit(
        self,
        image: Tensor,
        prompt: str,
        seed: int,
        n: int,
        server: str,
        mask: Tensor | None = None,
        **more: str,
    ) -> tuple[Tensor]:
        """n results for each image of the batch, (batch * n, height, width, 3)."""
        found = []
        for number, picture in enumerate(image):
            files = {"image": png(picture)}
            if mask is not None:
                files["mask"] = open_where(mask[min(number, len(mask) - 1)], tuple(picture.shape[:2]))
            asked = {"prompt": prompt, "seed": seed, "n": n, **more}
            found.append(images_of(ask(server, "/v1/images/edits", asked, files)))
        return (torch.cat(found),)


class CogViewUpscale:
    """Images enlarged, details generated."""

    RETURN_TYPES: ClassVar = ("IMAGE",)
    FUNCTION: ClassVar = "upscale"
    CATEGORY: ClassVar = CATEGORY
    DESCRIPTION: ClassVar = "Images 2 or 4 times as large; details are generated, not stretched."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Fields]:
        """What ComfyUI offers."""
        return {
            "required": {
                "image": ("IMAGE",),
                "times": ([2, 4], {"default": 2}),
                "seed": SEED,
                "server": SERVER,
            },
            "optional": {"prompt": ("STRING", {"default": ""}), "model": MODEL},
        }

    def upscale(self, image: Tensor, times: int, seed: int, server: str, **more: str) -> tuple[Tensor]:
        """(batch, times * height, times * width, 3)."""
        asked = {"times": times, "seed": seed, **more}
        found = [images_of(ask(server, "/v1/images/upscales", asked, {"image": png(one)})) for one in image]
        return (torch.cat(found),)


class CogViewCaption:
    """What an image shows, as text."""

    RETURN_TYPES: ClassVar = ("STRING",)
    OUTPUT_IS_LIST: ClassVar = (True,)
    FUNCTION: ClassVar = "caption"
    CATEGORY: ClassVar = CATEGORY
    DESCRIPTION: ClassVar = "A caption for each image, in English or Chinese."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Fields]:
        """What ComfyUI offers."""
        return {
            "required": {
                "image": ("IMAGE",),
                "language": (["en", "zh"], {"default": "en"}),
                "server": SERVER,
            },
            "optional": {"model": MODEL},
        }

    def caption(self, image: Tensor, language: str, server: str, **more: str) -> tuple[list[str]]:
        """One caption for each image of the batch."""
        found = []
        for one in image:
            answer = ask(server, "/v1/captions", {"language": language, **more}, {"image": png(one)})
            found.append(str(answer["data"][0]["captions"][0]["text"]))
        return (found,)
