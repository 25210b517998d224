"""Contact sheets: versions of the same images in rows, so that a column shows the versions of one image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP = 2


def sheet(rows: Sequence[NDArray[np.uint8]], columns: int = 12, zoom: int = 1) -> Image.Image:
    """Lay out versions of the same images; each of ``rows`` is (n, size, size, 3) uint8.

    A band has ``columns`` images and one line per version; there are as many bands as all n images need.
    Pixels are repeated ``zoom`` times; versions of another size are scaled to the first one's.
    """
    side = rows[0].shape[1] * zoom
    count = len(rows[0])
    columns = min(columns, count)
    bands = -(-count // columns)
    step, band = side + GAP, len(rows) * (side + GAP) + 2 * GAP
    page = Image.new("RGB", (columns * step + GAP, bands * band), "white")
    for line, images in enumerate(rows):
        for i, image in enumerate(images):
            tile = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (GAP + i % columns * step, GAP + i // columns * band + line * step))
    return page
