"""Image files, opened only with Pillow's plain readers.

Pillow recognizes a file by its first bytes, whatever its name, and some of its readers start programs (EPS
starts Ghostscript) or read formats that nobody uses for images. Nothing is decoded here.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from cogview.files import check_regular

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "ICO")


@cache
def _readers() -> frozenset[str]:
    """The formats that Pillow has loaded readers for; ``Image.open`` rejects any other name."""
    Image.init()
    return frozenset(Image.OPEN)


def open_image(file: Path | str | bytes | io.BytesIO, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open an image and read its header.

    Raises whatever Pillow's readers raise, and CogViewError if the path is not a regular file.
    """
    if isinstance(file, Path | str):
        check_regular(file)
    elif isinstance(file, bytes):
        file = io.BytesIO(file)
    return Image.open(file, formats=[name for name in formats if name in _readers()])
