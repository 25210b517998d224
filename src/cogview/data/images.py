"""Decodes image files to RGB, and converts RGB images to the image tokenizer's square.

Damaged and dangerous files are rejected before they are decoded (:class:`BadImage`); unusual modes are
converted. Squares are made as in the released CogView code: the shorter side is resized to the tokenizer's
size with antialiasing, then the centre is cropped.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from cogview.config import Config, option
from cogview.data.filters import Filters, border
from cogview.data.shards import Preprocessing
from cogview.errors import CogViewError
from cogview.files import is_regular
from cogview.image_files import open_image

Reason = Literal[
    "missing file",
    "too many bytes",
    "too many pixels",
    "too small",
    "not an image",
    "truncated",
    "even border",
]
SIZES = {"max_bytes", "max_pixels", "min_side"}  # the limits that depend only on the image
ORIENTATION = 0x0112  # the EXIF orientation tag
RESAMPLE = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
LONGEST = 64  # largest ratio of the sides of an image; longer images are cropped
MAX_SIDE = 1 << 20  # pixels
STRIP = 1 << 20  # pixels that are converted at a time
RELEASED_MEAN = (0.79093, 0.76271, 0.75340)
RELEASED_STD = (0.30379, 0.32279, 0.32800)


class Limits(Config):
    """Images to reject: files over ``max_bytes``, images over ``max_pixels`` or with a side under
    ``min_side``, and those that ``filters`` drop.

    When decoding in a separate process, also images that need more than ``seconds`` or ``max_memory`` bytes.
    """

    max_bytes: int = option(64 << 20, "Reject larger image files.", shown="64 MiB", gt=0)
    max_pixels: int = option(64_000_000, "Reject larger images.", shown="64 million pixels", gt=0)
    min_side: int = option(1, "Reject images whose shorter side has fewer pixels.", shown="1", ge=1)
    max_memory: int = Field(default=4 << 30, ge=256 << 20)
    seconds: float = option(
        30.0, "Reject images that take longer to decode.", "--max-seconds", shown="30 s", gt=0
    )
    filters: Filters = Filters()


class BadImage(Exception):
    """An image that cannot be used: ``reason`` is one of a fixed set, the message has the details."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


@dataclass(frozen=True)
class Decoded:
    """An RGB image and the conversions that were applied ("alpha over white", …)."""

    image: Image.Image
    conversions: tuple[str, ...] = ()


def decode(data: bytes | Path, limits: Limits | None = None) -> Decoded:
    """Decode an image (bytes or a path) to RGB, with its EXIF orientation, composited over white.

    Raises BadImage.
    """
    limits = limits or Limits()
    with _opened(data, limits) as image:
        return _load(image, limits)


def check_header(path: Path, limits: Limits | None = None) -> None:
    """Raise BadImage for a file that :func:`decode` rejects before it reads pixels."""
    limits = limits or Limits()
    with _opened(path, limits) as image:
        _check_pixels(image, limits)


def check_picture(path: Path) -> None:
    """Raise CogViewError for a file that is missing or has no valid image header; pixels are not read."""
    try:
        check_header(path)
    except BadImage as error:
        raise CogViewError(f"{path}: {error}") from None


def _opened(data: bytes | Path, limits: Limits) -> Image.Image:
    """Open an image and read its header; raises BadImage."""
    size = byte_count(data)
    if size > limits.max_bytes:
        raise BadImage("too many bytes", f"{size:,} bytes, at most {limits.max_bytes:,}")
    if size == 0:
        raise BadImage("not an image", "the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return open_image(data)
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels", f"more than {limits.max_pixels:,} pixels") from error
    except UnidentifiedImageError as error:
        raise BadImage("not an image", "no known image format") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged headers may raise anything
        raise BadImage("truncated", _line(error)) from error


def byte_count(data: bytes | Path) -> int:
    """Size of an image file; raises BadImage if it does not exist."""
    if isinstance(data, bytes):
        return len(data)
    if not is_regular(data):
        raise BadImage("missing file", "a folder; name the images in it" if _is_folder(data) else "not found")
    return data.stat().st_size


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def _check_pixels(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.max_pixels:
        raise BadImage(
            "too many pixels", f"{image.width} x {image.height}, at most {limits.max_pixels:,} pixels"
        )
    if max(image.size) > MAX_SIDE:  # each line has a memory overhead, however short it is
        raise BadImage("too many pixels", f"{image.width} x {image.height}, at most {MAX_SIDE:,} a side")
    if min(image.size) < limits.min_side:
        detail = f"{image.width} x {image.height} pixels, at least {limits.min_side} a side"
        raise BadImage("too small", detail)


def _load(image: Image.Image, limits: Limits) -> Decoded:
    _check_pixels(image, limits)
    try:
        animated = getattr(image, "is_animated", False)
        rotated = image.getexif().get(ORIENTATION, 1) != 1
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        converted, conversion = to_rgb(image)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels", str(error)) from error
    except (
        Exception
    ) as error:  # decoders raise anything on damaged data: SyntaxError, struct.error, IndexError, …
        raise BadImage("truncated", _line(error)) from error
    most = limits.filters.max_border
    if most is not None and (share := border(converted)) > most:
        raise BadImage("even border", f"{share:.0%} of a side, at most {most:.0%}")
    conversions = {
        "first frame of an animation": animated,
        "turned upright (EXIF)": rotated,
        conversion: bool(conversion),
    }
    return Decoded(converted, tuple(name for name, applied in conversions.items() if applied))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def to_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """An RGB copy, with transparency composited over white, and the name of the conversion ("" for RGB)."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy(), ""
    if image.has_transparency_data:
        return _over_white(image), "alpha over white"
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_grey(image).convert("RGB"), "deep grey to 8 bits"
    names = {"1": "black and white", "L": "grey", "P": "palette", "CMYK": "CMYK"}
    return image.convert("RGB"), names.get(image.mode, image.mode)


def _over_white(image: Image.Image) -> Image.Image:
    """Composite an image over white, a million pixels at a time, since compositing needs six copies."""
    flat, step = Image.new("RGB", image.size), max(1, STRIP // image.width)
    for top in range(0, image.height, step):
        layers = image.crop((0, top, image.width, min(top + step, image.height))).convert("RGBA")
        white = Image.new("RGBA", layers.size, "white")
        white.alpha_composite(layers)
        flat.paste(white.convert("RGB"), (0, top))
    return flat


def _deep_grey(image: Image.Image) -> Image.Image:
    """Convert to 8 bits, a million pixels at a time, since each temporarily needs eight bytes."""
    values, step = np.asarray(image), max(1, STRIP // image.width)
    grey = np.empty(values.shape, np.uint8)
    parts = range(0, image.height, step)
    tops = [np.nan_to_num(values[at : at + step].astype(np.float64)).max() for at in parts]
    top = 65535.0 if image.mode != "F" else max(*tops, 1.0)
    for at in parts:
        part = np.nan_to_num(values[at : at + step].astype(np.float64))
        grey[at : at + step] = np.clip(part / top * 255.0 + 0.5, 0, 255)
    return Image.fromarray(grey)


def resize_shorter(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """Resize so that the shorter side is ``size``; the longer side is rounded down, as in torchvision.

    An image with an aspect ratio above 64 is cropped to its middle first, so that a line of pixels does not
    become an image of gigabytes.
    """
    short, long = min(image.size), max(image.size)
    if long > LONGEST * short:
        box = [0, 0, *image.size]
        axis, first = int(image.height > image.width), (long - LONGEST * short) // 2
        box[axis], box[axis + 2] = first, first + LONGEST * short
        image = image.crop((box[0], box[1], box[2], box[3]))
        long = LONGEST * short
    other = max(size, int(size * long / short))
    shape = (size, other) if image.width <= image.height else (other, size)
    return image if shape == image.size else image.resize(shape, resample)


def random_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop a ``size`` x ``size`` square at a random position, seeded by the image's pixels.

    Nothing is resized, which preserves the detail that super-resolution needs (section 3.1). Raises BadImage
    if the image is smaller.
    """
    if min(image.size) < size:
        raise BadImage("too small", f"{image.width} x {image.height} pixels, at least {size} a side to crop")
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    left, top = (int(rng.integers(side - size + 1)) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def centre_crop(image: Image.Image, size: int) -> Image.Image:
    """Crop the central ``size`` x ``size`` square, with torchvision's rounding."""
    left, top = (round((side - size) / 2.0) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def square(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """The image as input of the image tokenizer: (size, size, 3) uint8."""
    if preprocessing.crop == "random":
        return np.array(random_crop(image, preprocessing.size), dtype=np.uint8)
    resized = resize_shorter(image, preprocessing.size, RESAMPLE[preprocessing.resample])
    return np.array(centre_crop(resized, preprocessing.size), dtype=np.uint8)
