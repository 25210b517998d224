"""Colours of drawings: which named ones they have, measured from the pixels, and painting them anew.

A drawing with one dominant hue (or none but grey) is recoloured in HSV: the hue cluster moves to the paint's
hue, its saturation is scaled and its brightness shifted, so that shading stays. The result counts only where
the colour measured afterwards has the asked name.
"""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sources.drawing import COLOURS, colour_name

NAMES = tuple(COLOURS)
PAINTS = {
    "red": "#e03131",
    "orange": "#fd7e14",
    "yellow": "#fcc419",
    "green": "#40b84a",
    "cyan": "#22b8cf",
    "blue": "#2f6fff",
    "purple": "#9546ea",
    "pink": "#f783ac",
    "brown": "#8d5a2b",
    "gray": "#9aa0a6",
    "black": "#2e2e2e",
    "white": "#f1f1f1",
}
SAID = 0.14  # share of the drawing from which a colour is said
MAIN = 0.35  # share that a recoloured drawing must have of its colour
DOMINANT = 0.38  # share of the drawing that a hue cluster must have to be recoloured
ALONE = 0.72  # share of all coloured pixels that it must have
GREY = 0.65  # share of light and grey pixels from which a drawing without a hue is recoloured
WIDTH = 28.0  # degrees of hue on either side that belong to a cluster
Channel = NDArray[np.float32]


def pixel_name(red: int, green: int, blue: int) -> str:
    """The name that people give a pixel's colour (three bytes), as :func:`colour_name` but for drawings.

    Steel blues and dark blueish greys count as grey and black, tans as brown, creams as yellow.
    """
    hue, lightness, _ = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    hue, chroma = hue * 360, (max(red, green, blue) - min(red, green, blue)) / 255
    if chroma < 0.09 or (170 <= hue < 260 and chroma < 0.19):
        return "black" if lightness < 0.3 else "white" if lightness > 0.85 else "gray"
    if 12 <= hue < 42 and 0.42 <= lightness < 0.72 and chroma < 0.56:
        return "brown"
    if 30 <= hue < 42 and lightness >= 0.8:
        return "yellow"
    return colour_name(f"{red:02x}{green:02x}{blue:02x}").en


@cache
def _names() -> NDArray[np.uint8]:
    """The colour name's number for every RGB value of 5 bits a channel, (32, 32, 32)."""
    table = np.empty((32, 32, 32), np.uint8)
    for red, green, blue in np.ndindex(32, 32, 32):
        name = pixel_name(*(round(level * 255 / 31) for level in (red, green, blue)))
        table[red, green, blue] = NAMES.index(name)
    return table


def shares(image: Image.Image) -> dict[str, float]:
    """Named colours of an RGBA drawing and their shares of its opaque area, the largest first."""
    pixels = np.asarray(image.resize((64, 64), Image.Resampling.NEAREST)).reshape(-1, 4)
    solid = pixels[pixels[:, 3] > 128][:, :3] >> 3
    counts = np.bincount(_names()[tuple(solid.T)], minlength=len(NAMES))
    order = np.argsort(-counts, kind="stable")
    return {NAMES[n]: float(counts[n] / max(1, len(solid))) for n in order if counts[n]}


def said_colours(image: Image.Image, most: int = 3) -> tuple[str, ...]:
    """The colours worth saying of a drawing: at most ``most``, by area."""
    return tuple(name for name, share in shares(image).items() if share >= SAID)[:most]


def main_colour(image: Image.Image) -> str:
    """The named colour of the largest part of an RGBA drawing, "" where that is little."""
    found = shares(image)
    name = next(iter(found), "")
    return name if name and found[name] >= MAIN else ""


def rgb(code: str) -> tuple[int, int, int]:
    """A hexadecimal colour as three bytes."""
    code = code.lstrip("#")
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:6], 16)


def hsv(code: str) -> tuple[float, float, float]:
    """A hexadecimal colour as hue in degrees, saturation and value up to 255."""
    hue, saturation, value = Image.new("RGB", (1, 1), rgb(code)).convert("HSV").getpixel((0, 0))  # type: ignore[misc]
    return hue * 360 / 255, saturation, value


def recolour(image: Image.Image, colour: str) -> Image.Image | None:
    """The RGBA drawing in a named colour; None where it has no dominant hue or misses the colour."""
    painted = repaint(image, PAINTS[colour])
    if painted is None:
        return None
    return painted if main_colour(painted) == colour else None


def repaint(image: Image.Image, paint: str, slack: float = 0.0) -> Image.Image | None:
    """The RGBA drawing with its dominant hue turned into the paint's; None where there is no such hue.

    ``slack``: by what share it may dominate less, where a smaller rendering was measured before.
    """
    channels = np.asarray(image.convert("RGB").convert("HSV"), dtype=np.float32)
    hue, saturation, value = channels[..., 0] * (360 / 255), channels[..., 1], channels[..., 2]
    solid = np.asarray(image.getchannel("A")) > 128
    part = _hue_part(hue, saturation, value, solid, 1 - slack)
    if part is None:
        part = _grey_part(saturation, value, solid, 1 - slack)
    if part is None:
        return None
    return _painted(image, (hue, saturation, value), part, solid, paint)


def _hue_part(
    hue: Channel, saturation: Channel, value: Channel, solid: NDArray[np.bool_], strict: float
) -> Channel | None:
    """How far each pixel belongs to the dominant hue, 0 to 1; None where none dominates."""
    coloured = solid & (saturation > 55) & (value > 45)
    total = strict * int(solid.sum())
    if coloured.sum() < DOMINANT * total:
        return None
    counts = np.bincount((hue[coloured] // 10).astype(int) % 36, minlength=36).astype(float)
    window = counts + sum(np.roll(counts, shift) for shift in (-2, -1, 1, 2))
    centre = int(np.argmax(window)) * 10 + 5
    near = coloured & (_apart(hue, centre) <= WIDTH)
    if near.sum() < max(DOMINANT * total, strict * ALONE * coloured.sum()):
        return None
    offset = float(np.mean(_signed(hue[near], centre)))
    distance = _apart(hue, centre + offset)
    return np.clip((WIDTH + 14 - distance) / 12, 0, 1) * np.clip((saturation - 22) / 40, 0, 1)


def _grey_part(
    saturation: Channel, value: Channel, solid: NDArray[np.bool_], strict: float
) -> Channel | None:
    """The light and grey pixels of a drawing that is little else; None otherwise."""
    grey = solid & (saturation < 50) & (value > 90)
    if grey.sum() < strict * GREY * solid.sum():
        return None
    return np.clip((75 - saturation) / 30, 0, 1) * np.clip((value - 60) / 40, 0, 1)


def _signed(hue: Channel, centre: float) -> Channel:
    return (hue - centre + 180) % 360 - 180


def _apart(hue: Channel, centre: float) -> Channel:
    return np.abs(_signed(hue, centre))


def _painted(
    image: Image.Image,
    channels: tuple[Channel, Channel, Channel],
    part: Channel,
    solid: NDArray[np.bool_],
    paint: str,
) -> Image.Image:
    hue, saturation, value = channels
    new_hue, new_saturation, new_value = hsv(paint)
    weights = part * solid
    total = float(weights.sum())
    mean_saturation, mean_value = (
        float((weights * channel).sum()) / total for channel in (saturation, value)
    )
    keep = 0.35 if new_saturation < 40 else 0.75  # of the shading
    shaded = np.clip(new_value + (value - mean_value) * keep, 0, 255)
    ratio = saturation / mean_saturation if mean_saturation > 55 else np.ones_like(saturation)
    richness = np.clip(new_saturation * np.clip(ratio, 0.5, 1.25), 0, 255)
    turned = np.full_like(hue, new_hue * 255 / 360)
    stacked = np.stack([turned, richness, shaded], -1).astype(np.uint8)
    painted = Image.fromarray(stacked, "HSV").convert("RGB")
    mask = Image.fromarray((part * 255).astype(np.uint8))
    result = Image.composite(painted, image.convert("RGB"), mask)
    result.putalpha(image.getchannel("A"))
    return result
