"""Arbitrary output sizes: which stage of a model generates an image, and the size it is resized to."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cogview.pipelines.resizing import Size
from cogview.serving.api_errors import ApiError
from cogview.serving.openai.fields import Quality
from cogview.serving.served import ServedModel

MAX_SIDE, MAX_PIXELS = 3840, 3840 * 2160  # OpenAI's largest
MIN_SIDE, MAX_RATIO = 16, 3.0


@dataclass(frozen=True)
class Target:
    """times: the stage, as in :attr:`ServedModel.sizes`; size: to resize its images to, if not None."""

    times: int
    size: Size | None = None


def target_size(served: ServedModel, size: str, quality: Quality) -> Target:
    """The stage and final size for a requested size; raises ApiError for an invalid size.

    A size that the model has is generated directly. For other sizes, ``low`` uses the first stage; otherwise
    two-stage models use their default stage, and other models the largest stage that is not larger than the
    longer side requested, up to the second stage, or beyond it with ``xhigh`` and ``max``.
    """
    if size in served.sizes:
        return Target(served.sizes[size])
    stages = sorted(served.sizes.values())
    first = served.times("auto")
    if size == "auto":
        return Target(stages[0] if quality == "low" else first)
    requested = parse_size(size)
    if quality == "low" or served.two_stage:
        return Target(stages[0] if quality == "low" else first, requested)
    native = int(next(iter(served.sizes)).partition("x")[0]) // first
    useful = [times for times in stages if native * times <= max(requested)] or stages[:1]
    return Target(useful[-1] if quality in ("xhigh", "max") else useful[:2][-1], requested)


def parse_size(size: str) -> Size:
    """Width and height in pixels from ``WIDTHxHEIGHT``.

    Raises:
        ApiError: another format, a side or a number of pixels out of range, or an aspect ratio above 3.
    """
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size)
    if match is None:
        raise _size_error(f"no size {size!r}; give WIDTHxHEIGHT, or auto")
    width, height = int(match[1]), int(match[2])
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise _size_error(
            f"the size {size} is out of range: sides of {MIN_SIDE} to {MAX_SIDE}, {MAX_PIXELS:,} pixels"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise _size_error(f"the size {size} is too narrow: at most 3 to 1")
    return width, height


def _size_error(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_value", param="size")
