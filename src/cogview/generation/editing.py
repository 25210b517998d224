"""Pixel operations of inpainting: cropping for the model and pasting its result (CogView2, section 3.1).

A mask of any shape is True where the image is generated again. A small region of a large image is cropped
with its surroundings, upscaled to the model's size, filled and pasted back. Pixels outside the mask stay
unchanged, bit for bit; inside, old and new pixels are blended over a margin of a few pixels.
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

MARGIN = 20 / 14  # side of the crop, relative to that of the masked part
WHITE = 128  # smallest grey level of a mask that counts as white

Mask = NDArray[np.bool_]
Crop = Literal["auto", "whole", "tight"]


@dataclass(frozen=True, eq=False)
class CropRegion:
    """A mask (height, width) and the crop of the image that the model reads.

    box, inner: (top, left, bottom, right) of the crop, and of the masked pixels.
    """

    mask: Mask
    box: tuple[int, int, int, int]
    inner: tuple[int, int, int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the crop."""
        return self.box[2] - self.box[0], self.box[3] - self.box[1]

    def cut(self, image: Image.Image) -> Image.Image:
        """Crop an image."""
        top, left, bottom, right = self.box
        return image.crop((left, top, right, bottom))

    def grid_mask(self, grid: tuple[int, int], style: Literal["covered", "released"] = "covered") -> Mask:
        """The mask (rows, columns) of the crop's tokens.

        ``covered``: every token with a masked pixel. ``released``: decided by the token's upper left pixel.
        """
        top, left, bottom, right = self.box
        part = self.mask[top:bottom, left:right]
        (rows, columns), (height, width) = grid, part.shape
        if style == "released":
            corners: Mask = part[np.arange(rows) * height // rows][:, np.arange(columns) * width // columns]
            return corners
        sums = np.zeros((height + 1, width + 1), dtype=np.int64)
        sums[1:, 1:] = part.cumsum(0).cumsum(1)
        tops, bottoms = _edges(rows, height)
        lefts, rights = _edges(columns, width)
        counts = sums[bottoms][:, rights] - sums[tops][:, rights] - sums[bottoms][:, lefts]
        covered: Mask = counts + sums[tops][:, lefts] > 0
        return covered


def _edges(tokens: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first pixel of every token and the one after its last; neighbouring tokens may share a pixel."""
    index = np.arange(tokens, dtype=np.int64)
    return index * pixels // tokens, -(-(index + 1) * pixels // tokens)


def inner_box(mask: Mask) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the True pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def crop_region(mask: Mask, crop: Crop = "auto", smallest: int = 1, to_last: bool = False) -> CropRegion:
    """The crop that the model reads of an image with this mask.

    ``tight``: a square of 20/14 times the masked part's longer side, centred on it and shifted into the
    image. ``auto``: the same, but with sides of at least ``smallest``, so that nothing is upscaled.
    ``whole``: the entire image. If the square is larger than the image in one dimension, the image's side is
    used there. to_last: the centre is that between the first and the last masked pixel, as in the released
    code, which may be one pixel further up and left.
    """
    height, width = mask.shape
    inner = inner_box(mask)
    tall, wide = inner[2] - inner[0], inner[3] - inner[1]
    side = max(int(tall * MARGIN), int(wide * MARGIN))
    if crop == "auto":
        side = max(side, smallest)
    if crop == "whole" or side >= max(height, width):
        return CropRegion(mask, (0, 0, height, width), inner)
    (top, bottom), (left, right) = (
        _centred(inner[i], inner[i + 2] - to_last, side, limit) for i, limit in ((0, height), (1, width))
    )
    return CropRegion(mask, (top, left, bottom, right), inner)


def _centred(first: int, end: int, side: int, limit: int) -> tuple[int, int]:
    """An interval of length ``side``, centred on another and shifted into 0 ... ``limit``."""
    side = min(side, limit)
    start = min(max(0, (first + end - side) // 2), limit - side)
    return start, start + side


def released_crop_region(fractions: Sequence[float], size: int = 480) -> CropRegion:
    """The crop of the released code, for a masked rectangle (top, left, bottom, right) in fractions of a
    square image of ``size`` pixels."""
    top, left, bottom, right = (int(size * value) for value in fractions)
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return crop_region(checked_mask(mask, (size, size), allow_full=True), "tight", to_last=True)


# ---------------------------------------------------------------------------------------------- masks


def checked_mask(
    mask: ArrayLike, size: tuple[int, int], allow_full: bool = False, where: str = "the mask"
) -> Mask:
    """Check a mask for an image of ``size`` (width, height).

    Raises CogViewError if it has another size, is empty, or (unless ``allow_full``) covers the image.
    """
    array = np.asarray(mask, dtype=np.bool_)
    if array.shape != size[::-1]:
        actual = " x ".join(map(str, array.shape[::-1]))
        raise CogViewError(f"{where} has {actual} pixels, the image {size[0]} x {size[1]}; make them equal")
    if not array.any():
        raise CogViewError(f"{where} is empty: paint the part to generate again white")
    if array.all() and not allow_full:
        raise CogViewError(f"{where} covers the whole image: leave a part out, or use cogview generate")
    return array


def mask_of_image(image: Image.Image) -> Mask:
    """White is True; transparent pixels count as black."""
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        black = Image.new("RGBA", layers.size, "black")
        black.alpha_composite(layers)
        image = black
    return np.asarray(image.convert("L")) >= WHITE


def mask_of_boxes(boxes: Sequence[tuple[int, int, int, int]], size: tuple[int, int]) -> Mask:
    """A mask that is True inside boxes (left, top, right, bottom) in pixels.

    Raises CogViewError for a box outside of the image.
    """
    width, height = size
    mask = np.zeros((height, width), dtype=np.bool_)
    for left, top, right, bottom in boxes:
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise CogViewError(
                f"the box {left},{top},{right},{bottom} is not inside the image of {width} x {height} "
                "pixels (left,top,right,bottom)"
            )
        mask[top:bottom, left:right] = True
    return mask


def check_boxes(image: Path, boxes: Sequence[str]) -> None:
    """Raise CogViewError for a box (:func:`read_box`) outside of the image in a file."""
    if not boxes:
        return
    with Image.open(image) as file:
        rotated = file.getexif().get(0x0112, 1) >= 5  # EXIF orientations that swap width and height
        size = file.size[::-1] if rotated else file.size
    mask_of_boxes([read_box(box, size) for box in boxes], size)


def integer_box(box: Sequence[float]) -> tuple[int, int, int, int]:
    """A box of four integers, in pixels; 12.0 counts as 12. Raises CogViewError for anything else."""
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
    """Parse ``x0,y0,x1,y1`` in pixels, or as percentages (``25%``) of the width or height."""
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


def _length(text: str, total: int) -> int:
    """Parse a length in pixels: ``12``, or ``50%`` of the total."""
    return round(float(text[:-1]) * total / 100) if text.endswith("%") else int(text)


# ---------------------------------------------------------------------------------------------- pasting


def soften(mask: Mask, feather: int = FEATHER) -> NDArray[np.float32]:
    """Opacity (height, width) of the new pixels: 0 outside, rising to 1 over ``feather`` pixels inside.

    There is no ramp along the border of the image. A mask thinner than the ramp reaches 1 at its centre.
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


def paste(original: Image.Image, new: Image.Image, region: CropRegion, feather: int = FEATHER) -> Image.Image:
    """Paste new pixels (RGB, of the crop's size) into the original (RGB or RGBA), inside the mask.

    Pasted pixels are opaque.
    """
    top, left, bottom, right = region.box
    pixels = np.array(original)
    opacity = soften(region.mask, feather)[top:bottom, left:right, None]
    old = pixels[top:bottom, left:right]
    pasted = np.array(new.convert(original.mode), dtype=np.float32)
    blended = np.rint(old + opacity * (pasted - old)).astype(np.uint8)
    pixels[top:bottom, left:right] = np.where(region.mask[top:bottom, left:right, None], blended, old)
    return Image.fromarray(pixels)
