"""Contact sheets: rows of images above each other, so that one column shows one image's versions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GAP = 2


def sheet(rows: Sequence[NDArray[np.uint8]], columns: int = 12, zoom: int = 1) -> Image.Image:
    """Lay versions of the same images out, each of ``rows`` being (n, size, size, 3) uint8.

    Every band has ``columns`` images and one line per version; bands follow until all n are shown. Pixels
    are repeated ``zoom`` times; versions of other sizes are scaled to the first one's.
    """
    side = rows[0].shape[1] * zoom
    count = len(rows[0])
    columns = min(columns, count)
    bands = -(-count // columns)
    step, band = side + GAP, len(rows) * (side + GAP) + 2 * GAP
    page = Image.new("RGB", (columns * step + GAP, bands * band), "white")
    for line, pictures in enumerate(rows):
        for i, picture in enumerate(pictures):
            tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            page.paste(tile, (GAP + i % columns * step, GAP + i // columns * band + line * step))
    return page
