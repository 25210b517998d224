"""Reads images to edit and their masks from all supported input types. Does not import PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageOps

from cogview.data.images import BadImage, decode, to_rgb
from cogview.errors import CogViewError
from cogview.generation import editing
from cogview.image_files import open_image
from cogview.pipelines.base import AnyImage, GeneratedImage

AnyMask = Image.Image | ArrayLike | str | Path
Box = tuple[int, int, int, int] | str


def upright(item: AnyImage) -> Image.Image:
    """The image with its EXIF orientation applied: RGBA if it has transparency, else RGB.

    Raises CogViewError if it is not an image.
    """
    if isinstance(item, GeneratedImage):
        return item.image
    if isinstance(item, Image.Image):
        image = item
    else:
        try:
            rgb = decode(Path(item)).image  # raises for dangerous or damaged files
        except BadImage as error:
            raise CogViewError(f"{item}: {error}", field="image") from error
        with open_image(item) as file:
            if not file.has_transparency_data:
                return rgb
            image = ImageOps.exif_transpose(file)
    return image.convert("RGBA") if image.has_transparency_data else to_rgb(image)[0]


def mask_of(mask: AnyMask | None, boxes: Box | Sequence[Box], size: tuple[int, int]) -> editing.Mask:
    """The union of a mask and boxes, checked."""
    box_list = _boxes(boxes)
    if mask is None and not box_list:
        raise CogViewError("nothing is masked; give a mask or a box", field="mask")
    parsed = [
        editing.read_box(box, size) if isinstance(box, str) else editing.integer_box(box) for box in box_list
    ]
    boxed = editing.mask_of_boxes(parsed, size)
    if mask is None:
        return editing.checked_mask(boxed, size, where="the box")
    where = str(mask) if isinstance(mask, str | Path) else "the mask"
    pixels = _mask_pixels(mask)
    return editing.checked_mask(editing.checked_mask(pixels, size, where=where) | boxed, size)


def _mask_pixels(mask: AnyMask) -> editing.Mask:
    """A mask of any supported type as bool (height, width)."""
    if isinstance(mask, str | Path):
        mask = upright(mask)
    if isinstance(mask, Image.Image):
        return editing.mask_of_image(mask)
    return np.asarray(mask, dtype=np.bool_)


def _boxes(boxes: Box | Sequence[Box]) -> list[Box]:
    """One box or several as a list."""
    if isinstance(boxes, str):
        return [boxes]
    items = list(boxes)
    one = len(items) == 4 and not any(isinstance(item, str | Sequence) for item in items)
    return [cast(Box, tuple(items))] if one else cast(list[Box], items)
