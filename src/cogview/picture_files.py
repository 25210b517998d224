"""Picture files, opened by Pillow's plain readers only.

Pillow knows a file by its first bytes, whatever its name, and some of its readers start programs (EPS starts
Ghostscript) or are nobody's images. Nothing is decoded here.
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
    """The formats there are readers for; Pillow takes no name of one that it has not loaded."""
    Image.init()
    return frozenset(Image.OPEN)


def open_picture(file: Path | str | bytes | io.BytesIO, formats: Sequence[str] = FORMATS) -> Image.Image:
    """An image, its header read.

    Raises whatever Pillow's readers raise, and CogViewError for what is not a regular file.
    """
    if isinstance(file, Path | str):
        check_regular(file)
    elif isinstance(file, bytes):
        file = io.BytesIO(file)
    return Image.open(file, formats=[name for name in formats if name in _readers()])
