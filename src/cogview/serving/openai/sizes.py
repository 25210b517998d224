"""Any size: which stage of a model draws a picture, and how it is brought to the size that was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from cogview.pipelines.background import ground_colour
from cogview.serving.errors import ApiError
from cogview.serving.openai.fields import Quality
from cogview.serving.served import Served

MAX_SIDE, MAX_PIXELS = 3840, 3840 * 2160  # OpenAI's largest
MIN_SIDE, MAX_RATIO = 16, 3.0
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Target:
    """times: the stage that draws, as in :attr:`Served.sizes`; size: what its pictures are resized to."""

    times: int
    size: Size | None = None


def target(served: Served, size: str, quality: Quality) -> Target:
    """How a size is made; ApiError for one that nothing has.

    A size of the model is drawn as it is. Others are drawn at the stage that the quality allows: the first
    one for ``low``, the model's default (``auto``, ``medium``), or twice the smallest size where that is
    enlarged anyhow; the largest stage for ``xhigh`` and ``max``.
    """
    if size in served.sizes:
        return Target(served.sizes[size])
    stages = sorted(served.sizes.values())
    first = served.times("auto")
    if size == "auto":
        return Target(stages[0] if quality == "low" else first)
    wanted = parse(size)
    if quality == "low" or served.enlarges:
        return Target(stages[0] if quality == "low" else first, wanted)
    native = int(next(iter(served.sizes)).partition("x")[0]) // first
    useful = [times for times in stages if native * times <= max(wanted)] or stages[:1]
    return Target(useful[-1] if quality in ("xhigh", "max") else useful[:2][-1], wanted)


def parse(size: str) -> Size:
    """``WIDTHxHEIGHT`` in pixels; ApiError for another shape, too many pixels, or a strip."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size)
    if found is None:
        raise _wrong(f"no size {size!r}; give WIDTHxHEIGHT, or auto")
    width, height = int(found[1]), int(found[2])
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _wrong(
            f"the size {size} is out of range: sides of {MIN_SIDE} to {MAX_SIDE}, {MAX_PIXELS:,} pixels"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _wrong(f"the size {size} is too narrow: at most 3 to 1")
    return width, height


def _wrong(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param="size")


def fitted(image: Image.Image, size: Size) -> Image.Image:
    """The image at this size, undistorted: on its own ground where it has one, else cut at the sides."""
    if image.size == size:
        return image
    (width, height), (wide, high) = image.size, size
    ground: tuple[int, ...] | None = (0, 0, 0, 0) if image.mode == "RGBA" else ground_colour(image)
    choose = min if ground is not None else max
    scale = choose(wide / width, high / height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (wide - inner[0]) // 2, (high - inner[1]) // 2
    if ground is None:  # what lies outside is never computed
        box = (-left / scale, -top / scale, (wide - left) / scale, (high - top) / scale)
        box = max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])
        return image.resize(size, Image.Resampling.LANCZOS, box=box)
    enlarged = image.resize(inner, Image.Resampling.LANCZOS)
    if inner == size:
        return enlarged
    page = Image.new(image.mode, size, ground)
    page.paste(enlarged, (left, top))
    return page
