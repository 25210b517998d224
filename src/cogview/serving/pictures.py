"""Pictures that come in, checked before they are decoded, and images that go out."""

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
MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
MAX_PIXELS = 32_000_000
DESCRIPTION = 0x010E  # EXIF's ImageDescription
KEPT_BYTES, KEPT_SECONDS = 64 << 20, 3600.0


def opened(data: bytes, field: str) -> Image.Image:
    """An upload as an image, RGB or RGBA; ApiError for what is none of ours, too large, or moves.

    Format and size are known from the first bytes; pixels are decoded when these are right.
    """
    try:
        with open_image(data, FORMATS) as image:
            moving = getattr(image, "is_animated", False)
        if moving:
            raise ApiError(400, f"{field} is an animation; send one picture", code="bad_image", param=field)
        flat = decode(data, Limits(max_bytes=max(1, len(data)), max_pixels=MAX_PIXELS)).image
        with open_image(data, FORMATS) as image:
            if not image.has_transparency_data:
                return flat
            return ImageOps.exif_transpose(image).convert("RGBA")
    except UnidentifiedImageError:
        there = ", ".join(name.lower() for name in FORMATS)
        message = f"{field} is no picture of a known format; send {there}"
        raise ApiError(400, message, code="bad_image", param=field) from None
    except Image.DecompressionBombError:
        message = f"{field}: too many pixels, at most {MAX_PIXELS:,}"
        raise ApiError(400, message, code="bad_image", param=field) from None
    except (ApiError, MemoryError):
        raise
    except Exception as error:  # readers of damaged images raise anything
        raise ApiError(400, f"{field}: {error!s:.300}", code="bad_image", param=field) from None


def encoded(
    image: Image.Image,
    kind: str,
    quality: int,
    facts: Provenance | None = None,
    label: Label | None = None,
) -> bytes:
    """An image as a file; ``facts`` and ``label`` go into what the format has for them."""
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
        image = flat(image, "white" if facts else "grey") if kind == "jpeg" else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(image: Image.Image, colour: str) -> Image.Image:
    """RGB; what is transparent gets a colour."""
    if image.mode == "RGB":
        return image
    ground = Image.new("RGBA", image.size, colour)
    ground.alpha_composite(image.convert("RGBA"))
    return ground.convert("RGB")


def base64_text(data: bytes) -> str:
    """As in ``b64_json``."""
    return base64.b64encode(data).decode("ascii")


def unfinished(images: AnyImageTokenizer, codes: torch.Tensor, grid: tuple[int, int]) -> Image.Image:
    """The image of the first codes (known,), RGBA; transparent where nothing is drawn yet.

    Codes that are missing repeat those above, so that the edge of what is there looks as it will.
    """
    rows, columns = grid
    known, filled = len(codes), np.empty(rows * columns, np.int64)
    filled[:known] = codes.cpu().numpy()
    for place in range(known, rows * columns):
        filled[place] = filled[place - columns] if place >= columns else filled[known - 1]
    image = decode_image(images, filled, grid)
    drawn = np.where(np.arange(rows * columns) < known, 255, 0).astype(np.uint8).reshape(rows, columns)
    image.putalpha(Image.fromarray(drawn).resize(image.size, Image.Resampling.NEAREST))
    return image


class Shelf:
    """Pictures that can be fetched for an hour, by names nobody can guess (``response_format: url``)."""

    def __init__(self, most: int = KEPT_BYTES, seconds: float = KEPT_SECONDS) -> None:
        self.most, self.seconds = most, seconds
        self._kept: OrderedDict[str, tuple[float, bytes, str]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, data: bytes, kind: str) -> str:
        """Keep a file; its name."""
        name = f"{secrets.token_urlsafe(16)}.{kind}"
        with self._lock:
            self._kept[name] = (time.monotonic(), data, MEDIA[kind])
            while len(self._kept) > 1 and sum(len(one[1]) for one in self._kept.values()) > self.most:
                self._kept.popitem(last=False)
        return name

    def get(self, name: str) -> tuple[bytes, str] | None:
        """A file and its media type; None where there is none, or not any more."""
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                return None
            if time.monotonic() - found[0] > self.seconds:
                del self._kept[name]
                return None
            return found[1], found[2]
