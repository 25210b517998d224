"""Removal of a uniform background: artwork on a plain background becomes a cut-out with an alpha channel.

The background colour is the most common colour of the border; the pixels of that colour that are connected
to the border become transparent. At edges, where pixels mix foreground and background, colour and opacity are
separated so that the cut-out over the old background looks like the original.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

NEAR = 16  # largest difference in any channel, out of 255, from the background colour
SHARE = 0.6  # of the border that must have the background colour
EDGE = 5  # pixels, width of the window around an edge pixel in which the foreground colour is searched
Bools = NDArray[np.bool_]


def ground_colour(image: Image.Image) -> tuple[int, int, int] | None:
    """The background colour: that of most of the border; None if there is no such colour."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)  # (height, width, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0).astype(np.int16)
    if (np.abs(border - colour).max(axis=1) <= NEAR).mean() < SHARE:
        return None
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def without_background(image: Image.Image) -> Image.Image | None:
    """The image (RGBA) with a transparent background; None if its background is not uniform."""
    colour = ground_colour(image)
    if colour is None:
        return None
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    ground = np.array(colour, np.float32)
    distance = np.abs(pixels - ground).max(axis=2)
    outside = _connected_to_border(distance <= NEAR)
    edge = _largest_nearby(outside.astype(np.uint8) * 255) > 0
    unmixed = np.maximum(_largest_nearby(distance.astype(np.uint8)), 1)
    alpha = np.where(edge, np.clip(distance / unmixed, 0, 1), 1)
    alpha[outside] = 0
    share = np.maximum(alpha, 1 / 255)[..., None]
    colours = np.clip((pixels - (1 - share) * ground) / share, 0, 255)
    rgba = np.concatenate([colours, alpha[..., None] * 255], axis=2)
    return Image.fromarray(rgba.round().astype(np.uint8), "RGBA")


def _largest_nearby(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(values).filter(ImageFilter.MaxFilter(EDGE)))


def _connected_to_border(near: Bools) -> Bools:
    """Pixels of ``near`` that are connected to the border within ``near``, found by sweeps in four
    directions."""
    reached = np.zeros_like(near)
    reached[[0, -1]], reached[:, [0, -1]] = near[[0, -1]], near[:, [0, -1]]
    count = -1
    while count != (count := int(reached.sum())):
        for turns in (0, 1, 2, 3):
            reached = np.rot90(_sweep(np.rot90(reached, turns), np.rot90(near, turns)), -turns)
    return reached


def _sweep(reached: Bools, near: Bools) -> Bools:
    """``reached`` spread to the right along rows, within ``near``."""
    column = np.arange(near.shape[1])
    start = np.maximum.accumulate(np.where(reached, column, -1), axis=1)
    stop = np.maximum.accumulate(np.where(near, -1, column), axis=1)
    return near & (start > stop)
