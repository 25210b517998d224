"""Removal of an even background, so that art on a plain ground becomes a cut-out with an alpha channel.

The ground is the colour of most of the border; what of it is connected to the border becomes transparent.
At edges, where pixels mix both, colour and opacity are separated so that over the old ground the image looks
as before.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

NEAR = 16  # largest difference of a channel, of 255, between the ground and what still belongs to it
SHARE = 0.6  # of the border that has to be ground
EDGE = 5  # pixels, width of the window around an edge pixel in which the unmixed colour is looked for
Bools = NDArray[np.bool_]


def ground_colour(image: Image.Image) -> tuple[int, int, int] | None:
    """The colour of most of the border; None where there is no such colour."""
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)  # (height, width, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(border, axis=0).astype(np.int16)
    if (np.abs(border - colour).max(axis=1) <= NEAR).mean() < SHARE:
        return None
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def without_background(image: Image.Image) -> Image.Image | None:
    """The image with its ground transparent, RGBA; None where it has no even ground."""
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
    made = np.concatenate([colours, alpha[..., None] * 255], axis=2)
    return Image.fromarray(made.round().astype(np.uint8), "RGBA")


def _largest_nearby(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(values).filter(ImageFilter.MaxFilter(EDGE)))


def _connected_to_border(near: Bools) -> Bools:
    """Pixels of ``near`` that a path of such pixels joins with the border, by sweeps in all directions."""
    found = np.zeros_like(near)
    found[[0, -1]], found[:, [0, -1]] = near[[0, -1]], near[:, [0, -1]]
    count = -1
    while count != (count := int(found.sum())):
        for turned in (0, 1, 2, 3):
            found = np.rot90(_swept(np.rot90(found, turned), np.rot90(near, turned)), -turned)
    return found


def _swept(found: Bools, near: Bools) -> Bools:
    """``found`` spread to the right along rows, as far as ``near`` goes."""
    place = np.arange(near.shape[1])
    start = np.maximum.accumulate(np.where(found, place, -1), axis=1)
    stop = np.maximum.accumulate(np.where(near, -1, place), axis=1)
    return near & (start > stop)
