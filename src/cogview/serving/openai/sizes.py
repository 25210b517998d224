"""Any size: which stage of a model draws an image, and how it is brought to the size that was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cogview.pipelines.resizing import Size
from cogview.serving.api_errors import ApiError
from cogview.serving.openai.fields import Quality
from cogview.serving.served import Served

MAX_SIDE, MAX_PIXELS = 3840, 3840 * 2160  # OpenAI's largest
MIN_SIDE, MAX_RATIO = 16, 3.0


@dataclass(frozen=True)
class Target:
    """times: the stage that draws, as in :attr:`Served.sizes`; size: what its images are resized to."""

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
