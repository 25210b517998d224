"""Uploaded images, checked before they are decoded, and encoded images for responses."""

from __future__ import annotations

import base64
import io
import secrets
import threading
import time
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from cogview.checkpoints.provenance import Label, Provenance, label_texts, png_bytes
from cogview.data.images import Limits, decode
from cogview.image_files import open_image
from cogview.serving.api_errors import ApiError
from cogview.tokenizers.loading import AnyImageTokenizer, decode_image

FORMATS = ("PNG", "JPEG", "WEBP")
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
MAX_PIXELS = 32_000_000
DESCRIPTION = 0x010E  # EXIF tag ImageDescription
KEPT_BYTES, KEPT_SECONDS = 64 << 20, 3600.0


def decode_upload(data: bytes, field: str) -> Image.Image:
    """An uploaded file as an image, RGB or RGBA.

    Format and size are checked from the first bytes, before pixels are decoded.

    Raises:
        ApiError: not an image in one of FORMATS, more than MAX_PIXELS, animated, or damaged.
    """
    try:
        with open_image(data, FORMATS) as image:
            animated = getattr(image, "is_animated", False)
        if animated:
            raise ApiError(400, f"{field} is an animation; send one image", code="bad_image", param=field)
        rgb = decode(data, Limits(max_bytes=max(1, len(data)), max_pixels=MAX_PIXELS)).image
        with open_image(data, FORMATS) as image:
            if not image.has_transparency_data:
                return rgb
            return ImageOps.exif_transpose(image).convert("RGBA")
    except UnidentifiedImageError:
        formats = ", ".join(name.lower() for name in FORMATS)
        message = f"{field} is not an image in a known format; send {formats}"
        raise ApiError(400, message, code="bad_image", param=field) from None
    except Image.DecompressionBombError:
        message = f"{field}: too many pixels, at most {MAX_PIXELS:,}"
        raise ApiError(400, message, code="bad_image", param=field) from None
    except (ApiError, MemoryError):
        raise
    except Exception as error:  # decoders raise all kinds of errors for damaged images
        raise ApiError(400, f"{field}: {error!s:.300}", code="bad_image", param=field) from None


def image_bytes(
    image: Image.Image,
    kind: str,
    quality: int,
    facts: Provenance | None = None,
    label: Label | None = None,
) -> bytes:
    """An image as a file; ``facts`` and ``label`` are stored in the format's metadata."""
    if kind == "png" and facts is not None:
        return png_bytes(image, facts, label)
    buffer, options = io.BytesIO(), dict[str, Any]()
    if kind != "png":
        options["quality"] = quality
        if facts is not None:
            exif = Image.Exif()
            exif[DESCRIPTION] = facts.model_dump_json(ensure_ascii=True)
            options["exif"] = exif.tobytes()
            options["xmp"] = label_texts(facts, label)[1].encode()
        image = flatten(image, "white" if facts else "grey") if kind == "jpeg" else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flatten(image: Image.Image, colour: str) -> Image.Image:
    """The image in RGB, transparent parts over a colour."""
    if image.mode == "RGB":
        return image
    background = Image.new("RGBA", image.size, colour)
    background.alpha_composite(image.convert("RGBA"))
    return background.convert("RGB")


def base64_text(data: bytes) -> str:
    """Data as base64, as in ``b64_json``."""
    return base64.b64encode(data).decode("ascii")


def partial_image(tokenizer: AnyImageTokenizer, codes: torch.Tensor, grid: tuple[int, int]) -> Image.Image:
    """The image of the first codes (known,), RGBA, transparent where codes are not yet generated.

    Missing codes repeat those above them, so that the known ones at the edge decode as in the full image.
    """
    rows, columns = grid
    known, filled = len(codes), np.empty(rows * columns, np.int64)
    filled[:known] = codes.cpu().numpy()
    for index in range(known, rows * columns):
        filled[index] = filled[index - columns] if index >= columns else filled[known - 1]
    image = decode_image(tokenizer, filled, grid)
    alpha = np.where(np.arange(rows * columns) < known, 255, 0).astype(np.uint8).reshape(rows, columns)
    image.putalpha(Image.fromarray(alpha).resize(image.size, Image.Resampling.NEAREST))
    return image


class ImageStore:
    """Images that can be fetched for an hour by unguessable names (``response_format: url``).

    max_bytes: total size above which the oldest are removed; seconds: how long a file is kept.
    """

    def __init__(self, max_bytes: int = KEPT_BYTES, seconds: float = KEPT_SECONDS) -> None:
        self.max_bytes, self.seconds = max_bytes, seconds
        self._files: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, data: bytes, kind: str) -> str:
        """Store a file; returns its name."""
        name = f"{secrets.token_urlsafe(16)}.{kind}"
        with self._lock:
            self._files[name] = (time.monotonic(), data, MEDIA_TYPES[kind])
            while (
                len(self._files) > 1 and sum(len(file[1]) for file in self._files.values()) > self.max_bytes
            ):
                self._files.popitem(last=False)
        return name

    def get(self, name: str) -> tuple[bytes, str] | None:
        """A file and its media type; None if the name is unknown or expired."""
        with self._lock:
            file = self._files.get(name)
            if file is None:
                return None
            if time.monotonic() - file[0] > self.seconds:
                del self._files[name]
                return None
            return file[1], file[2]
