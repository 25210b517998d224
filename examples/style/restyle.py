"""Styles that the default model was not trained on, made of any pictures (CogView, section 3.3).

python examples/style/restyle.py sketch SOURCE OUT --count 1000

SOURCE is whatever ``cogview data`` reads; OUT becomes a folder of PNG files without captions, since in style
learning every picture has the same one.

sketch   pencil on paper: grey divided by its blurred negative, a darkroom trick
neon     glowing outlines on black, in the colours of what they surround
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from cogview.data.images import BadImage, decode
from cogview.data.sources import open_source


def sketch(image: Image.Image) -> Image.Image:
    """A picture's pencil sketch: dark lines where brightness changes, paper elsewhere."""
    grey = ImageOps.grayscale(image)
    blurred = ImageOps.invert(grey).filter(ImageFilter.GaussianBlur(image.width / 40))
    top, bottom = np.asarray(grey, np.float32), 255.0 - np.asarray(blurred, np.float32)
    light = np.clip(255.0 * top / np.maximum(bottom, 1.0), 0, 255)
    lines = np.clip(255.0 - 2.5 * (255.0 - light), 0, 255).astype(np.uint8)
    return ImageOps.colorize(Image.fromarray(lines), black="#2b2b33", white="#f3efe4")


def neon(image: Image.Image) -> Image.Image:
    """Outlines as tubes of light: edges of any channel, in the saturated colour beside them, with a glow."""
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    width = image.width / 90
    edges = [ndimage.gaussian_gradient_magnitude(pixels[..., channel], width) for channel in range(3)]
    line = np.clip(np.max(edges, 0) * width * 4 - 0.1, 0, 1)[..., None]
    reach = int(5 * width)
    around = ndimage.maximum_filter(pixels - pixels.min(2, keepdims=True), (reach, reach, 1))
    colour = 0.25 + 0.75 * around / np.maximum(around.max(2, keepdims=True), 0.15)
    lit = line * colour
    glow = ndimage.gaussian_filter(lit, (3 * width, 3 * width, 0))
    shown = np.clip(np.array([0.03, 0.02, 0.07]) + lit + 0.8 * glow, 0, 1)
    return Image.fromarray((255 * shown).astype(np.uint8))


STYLES = {"sketch": sketch, "neon": neon}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("style", choices=STYLES)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    source = open_source(given.source)
    every, made = max(1, len(source) // given.count), 0
    for number, record in enumerate(source.records()):
        if made == given.count:
            break
        if number % every or record.image is None:
            continue
        try:
            STYLES[given.style](decode(record.image).image).save(given.out / f"{made:04}.png")
            made += 1
        except BadImage as error:
            print(f"{record.place}: {error}")
    print(f"{made} pictures in {given.out}")


if __name__ == "__main__":
    main()
