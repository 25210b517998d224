"""Names the colour of a thing in an image from the pixels of its box.

A pixel's colour name follows from its hue, lightness and chroma (HLS). Pixels in the box that resemble those
around it are background and ignored; the most common name among the others is the thing's colour.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

NAMES = (
    "red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "black", "white", "gray",
)  # fmt: skip
Pixels = NDArray[np.uint8]
LEVELS = 64  # levels per channel in the lookup table
RING = 3  # width in pixels of the ring around a box that defines the background
COMMON = 0.08  # minimum share of the ring for a background colour
ALIKE = 30.0  # maximum RGB distance of a pixel to a background colour
LEAST = 0.12  # minimum share of foreground in the box; below it, all pixels count


def name_numbers(pixels: Pixels) -> NDArray[np.uint8]:
    """The index in NAMES of each pixel's colour; (..., 3) to (...)."""
    rgb = pixels.astype(np.float64) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    chroma, lightness = high - low, (high + low) / 2
    hue = _hue(rgb, high, chroma)
    grey = chroma < 0.09
    red = (hue < 12) | (hue >= 345)
    bounds = [
        (grey & (lightness < 0.22), "black"),
        (grey & (lightness > 0.88), "white"),
        (grey, "gray"),
        (red & (lightness > 0.68), "pink"),
        (red & (lightness < 0.25) & (chroma < 0.35), "brown"),
        (red, "red"),
        ((hue < 42) & ((lightness < 0.42) | ((chroma < 0.45) & (lightness < 0.7))), "brown"),
        ((hue < 42) & (lightness < 0.8), "orange"),
        (hue < 42, "pink"),
        ((hue < 70) & (lightness > 0.35), "yellow"),
        (hue < 70, "brown"),
        (hue < 165, "green"),
        (hue < 195, "cyan"),
        (hue < 252, "blue"),
        (hue < 305, "purple"),
        (lightness > 0.35, "pink"),
    ]
    conditions, names = zip(*bounds, strict=True)
    numbers = [np.uint8(NAMES.index(name)) for name in names]
    return np.select(conditions, numbers, np.uint8(NAMES.index("purple"))).astype(np.uint8)


def _hue(
    rgb: NDArray[np.float64], high: NDArray[np.float64], chroma: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Hue in degrees, 0 for greys."""
    safe = np.where(chroma == 0, 1, chroma)
    red, green, blue = (rgb[..., channel] for channel in range(3))
    sector = np.select(
        [high == red, high == green],
        [(green - blue) / safe, 2 + (blue - red) / safe],
        4 + (red - green) / safe,
    )
    return np.where(chroma == 0, 0, (sector / 6) % 1 * 360)


@cache
def _table() -> NDArray[np.uint8]:
    """Lookup table from colours to indices in NAMES, (LEVELS, LEVELS, LEVELS)."""
    levels = np.round((np.arange(LEVELS) + 0.5) * 256 / LEVELS).astype(np.uint8)
    return name_numbers(np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1))


def shares(pixels: Pixels) -> dict[str, float]:
    """The share of each colour name among pixels (n, 3), the largest first."""
    cells = pixels // (256 // LEVELS)
    counts = np.bincount(_table()[cells[:, 0], cells[:, 1], cells[:, 2]], minlength=len(NAMES))
    order = np.argsort(-counts, kind="stable")
    return {NAMES[n]: float(counts[n]) / max(1, len(pixels)) for n in order if counts[n]}


def box_colour(image: Pixels, box: tuple[float, float, float, float]) -> str | None:
    """The colour of the thing in a box of an image (height, width, 3); None for a box without pixels.

    ``box``: left, top, right, bottom in pixels, clipped to the image.
    """
    height, width = image.shape[:2]
    left, top = max(0, round(box[0])), max(0, round(box[1]))
    right, bottom = min(width, round(box[2])), min(height, round(box[3]))
    if left >= right or top >= bottom:
        return None
    inner = image[top:bottom, left:right].reshape(-1, 3)
    foreground = inner[~_background(inner, _ring(image, left, top, right, bottom))]
    return next(iter(shares(foreground if len(foreground) >= LEAST * len(inner) else inner)))


def _ring(image: Pixels, left: int, top: int, right: int, bottom: int) -> Pixels:
    """The pixels directly around a box; if there are too few in the image, those of the box's edge."""
    outer = image[max(0, top - RING) : bottom + RING, max(0, left - RING) : right + RING]
    mask = np.ones(outer.shape[:2], bool)
    y, x = min(RING, top), min(RING, left)
    mask[y : y + bottom - top, x : x + right - left] = False
    if mask.sum() < 4 * RING:
        mask = np.ones(outer.shape[:2], bool)
        mask[1:-1, 1:-1] = False
    return outer[mask]


def _background(pixels: Pixels, ring: Pixels) -> NDArray[np.bool_]:
    """Which pixels (n, 3) resemble a common colour of the ring (m, 3)."""
    _, cluster, counts = np.unique(ring >> 4, axis=0, return_inverse=True, return_counts=True)
    background = np.zeros(len(pixels), bool)
    for number in np.flatnonzero(counts >= COMMON * len(ring)):
        mean = ring[cluster.reshape(-1) == number].mean(0)
        background |= np.sqrt(((pixels - mean) ** 2).sum(-1)) < ALIKE
    return background
