"""Editing in pixels: what is cut out for the model, and how its result goes back (CogView2, section 3.1).

A mask of any shape is True where the image is generated again. A small region in a large image is cut
out with its surroundings, enlarged to the size the model knows, filled and pasted back. Pixels outside the
mask stay what they were, bit for bit; inside, the new pixels set in over a few pixels' width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from cogview.errors import CogViewError
from cogview.types import FEATHER

MARGIN = 20 / 14  # side of what is cut out, over that of the masked part
WHITE = 128  # a mask's grey from which it counts as white

Mask = NDArray[np.bool_]
Crop = Literal["auto", "whole", "tight"]


@dataclass(frozen=True, eq=False)
class Frame:
    """A mask (height, width) and the part of the image that the model sees.

    box and inner: (top, left, bottom, right) of that part, and of the masked pixels.
    """

    mask: Mask
    box: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the part."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def cut(self, image: Image.Image) -> Image.Image:
        """The part of an image."""
        top, left, bottom, right = self.box
        return image.crop((left, top, right, bottom))

    def grid_mask(self, grid: tuple[int, int], style: Literal["covered", "released"] = "covered") -> Mask:
        """The mask (rows, columns) of the part's tokens.

        ``covered``: every token with a masked pixel in it. ``released``: by the pixel at its upper left.
        """
        top, left, bottom, right = self.box
        part = self.mask[top:bottom, left:right]
        (rows, columns), (height, width) = grid, part.shape
        if style == "released":
            chosen: Mask = part[np.arange(rows) * height // rows][:, np.arange(columns) * width // columns]
            return chosen
        sums = np.zeros((height + 1, width + 1), dtype=np.int64)
        sums[1:, 1:] = part.cumsum(0).cumsum(1)
        tops, bottoms = _edges(rows, height)
        lefts, rights = _edges(columns, width)
        counts = sums[bottoms][:, rights] - sums[tops][:, rights] - sums[bottoms][:, lefts]
        covered: Mask = counts + sums[tops][:, lefts] > 0
        return covered


def _edges(tokens: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first pixel of every token and the one after its last; neighbours may share one."""
    index = np.arange(tokens, dtype=np.int64)
    return index * pixels // tokens, -(-(index + 1) * pixels // tokens)


def inner_box(mask: Mask) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the True pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def frame(mask: Mask, crop: Crop = "auto", smallest: int = 1, to_last: bool = False) -> Frame:
    """What the model sees of an image with this mask.

    ``tight``: a square of the masked part's longer side times 20/14, around its middle, moved inside the
    image. ``auto``: the same, but no side below ``smallest``, so that nothing is enlarged. ``whole``: all.
    Where the square does not fit, the image's own side is taken. to_last: the middle is that between the
    first and the last masked pixel, as in the release, which may be one pixel further up and left.
    """
    height, width = mask.shape
    inner = inner_box(mask)
    tall, wide = inner[2] - inner[0], inner[3] - inner[1]
    side = max(int(tall * MARGIN), int(wide * MARGIN))
    if crop == "auto":
        side = max(side, smallest)
    if crop == "whole" or side >= max(height, width):
        return Frame(mask, (0, 0, height, width), inner)
    (top, bottom), (left, right) = (
        _centred(inner[i], inner[i + 2] - to_last, side, limit) for i, limit in ((0, height), (1, width))
    )
    return Frame(mask, (top, left, bottom, right), inner)


def _centred(first: int, end: int, side: int, limit: int) -> tuple[int, int]:
    """A run of ``side`` around the middle of another, moved into 0 ... ``limit``."""
    side = min(side, limit)
    start = min(max(0, (first + end - side) // 2), limit - side)
    return start, start + side


def released_frame(fractions: Sequence[float], size: int = 480) -> Frame:
    """The release's: a rectangle (top, left, bottom, right) in fractions of a square of ``size`` pixels."""
    top, left, bottom, right = (int(size * value) for value in fractions)
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return frame(checked(mask, (size, size), allow_full=True), "tight", to_last=True)


# ---------------------------------------------------------------------------------------------- masks


def checked(
    mask: ArrayLike, size: tuple[int, int], allow_full: bool = False, where: str = "the mask"
) -> Mask:
    """A mask for an image of ``size`` (width, height); CogViewError for another size, nothing or all."""
    found = np.asarray(mask, dtype=np.bool_)
    if found.shape != size[::-1]:
        has = " x ".join(map(str, found.shape[::-1]))
        raise CogViewError(f"{where} has {has} pixels, the picture {size[0]} x {size[1]}; make them equal")
    if not found.any():
        raise CogViewError(f"{where} is empty: paint white what is to be generated again")
    if found.all() and not allow_full:
        raise CogViewError(f"{where} covers the whole picture: leave something, or use cogview generate")
    return found


def mask_of_image(image: Image.Image) -> Mask:
    """White is True; transparent pixels count as black."""
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        black = Image.new("RGBA", layers.size, "black")
        black.alpha_composite(layers)
        image = black
    return np.asarray(image.convert("L")) >= WHITE


def mask_of_boxes(boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]) -> Mask:
    """True inside boxes (left, top, right, bottom) in pixels; CogViewError for one that is not inside."""
    width, height = size
    mask = np.zeros((height, width), dtype=np.bool_)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise CogViewError(
                f"the box {left},{top},{right},{bottom} does not lie in the picture of {width} x {height} "
                "pixels (left,top,right,bottom)"
            )
        mask[top:bottom, left:right] = True
    return mask


def check_boxes(image: Path, boxes: Sequence[str]) -> None:
    """CogViewError for a box (:func:`read_box`) that does not lie in the image of a file."""
    if not boxes:
        return
    with Image.open(image) as file:
        turned = file.getexif().get(0x0112, 1) >= 5  # stored lying on its side
        size = file.size[::-1] if turned else file.size
    mask_of_boxes([read_box(box, size) for box in boxes], size)


def whole_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """Four whole numbers of pixels; CogViewError for anything else. 12.0 is 12."""
    try:
        left, top, right, bottom = (int(value) for value in box)
        if tuple(box) != (left, top, right, bottom):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise CogViewError(
            f"the box {box!r:.60} is not four whole numbers of pixels (left, top, right, bottom)"
        ) from None
    return left, top, right, bottom


def read_box(text: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """``x0,y0,x1,y1`` in pixels, or each a percentage (``25%``) of the width or height."""
    parts = text.replace(" ", "").split(",")
    try:
        if len(parts) != 4:
            raise ValueError
        left, top, right, bottom = (_length(part, size[i % 2]) for i, part in enumerate(parts))
    except (ValueError, OverflowError):
        raise CogViewError(
            f"the box {text!r} is not x0,y0,x1,y1; give pixels (10,20,50,60) or percentages (10%,20%,50%,60%)"
        ) from None
    return left, top, right, bottom


def _length(text: str, whole: int) -> int:
    """Pixels of ``12`` or ``50%``."""
    return round(float(text[:-1]) * whole / 100) if text.endswith("%") else int(text)


# ---------------------------------------------------------------------------------------------- pasting


def soften(mask: Mask, feather: int = FEATHER) -> NDArray[np.float32]:
    """Opacity (height, width) of the new pixels: 0 outside, rising to 1 over ``feather`` pixels inside.

    At the image's own border nothing rises. A mask too thin for it is as opaque in its middle.
    """
    inside = Image.fromarray(mask.astype(np.uint8) * 255)
    total = np.zeros(mask.shape, dtype=np.float32)
    for _ in range(max(1, feather)):
        layer = np.asarray(inside) > 0
        if not layer.any():
            break
        total += layer
        inside = inside.filter(ImageFilter.MinFilter(3))
    opacity: NDArray[np.float32] = total / total.max()
    return opacity


def paste(original: Image.Image, new: Image.Image, area: Frame, feather: int = FEATHER) -> Image.Image:
    """The original (RGB, or RGBA) with new pixels (RGB, of the part's size) inside the mask.

    What was transparent there is opaque then.
    """
    top, left, bottom, right = area.box
    pixels = np.array(original)
    opacity = soften(area.mask, feather)[top:bottom, left:right, None]
    old = pixels[top:bottom, left:right]
    over = np.array(new.convert(original.mode), dtype=np.float32)
    mixed = np.rint(old + opacity * (over - old)).astype(np.uint8)
    pixels[top:bottom, left:right] = np.where(area.mask[top:bottom, left:right, None], mixed, old)
    return Image.fromarray(pixels)
